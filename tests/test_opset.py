"""The opset rises by real conversion, and outputs stay the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import pytest
from cases import text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.data.noise import Data, usable_data
from mixquant_onnx.errors import ModelError
from mixquant_onnx.export.opset import CannotConvert, conversion_bytes, most_conversion_bytes, opset_of, raise_opset
from mixquant_onnx.runtime.session import Session

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def _raised(model: ModelProto, target: int) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    names = iter(f"fresh.{k}" for k in range(10_000))
    raise_opset(copy, target, lambda _: next(names))
    return copy


def _outputs(model: ModelProto, data: Data) -> list[np.ndarray]:
    return Session(model).run(data.feeds[0])


LARGE = ("light_densenet121", "light_inception_v1", "light_inception_v2", "light_resnet50", "light_vgg19")
NETWORKS = [
    pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name
    for name in sorted(path.stem for path in LIGHT.glob("*.onnx"))
]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("target", [pytest.param(14, marks=pytest.mark.slow), 21])
def test_whole_networks_of_opset_9_give_the_same_outputs(name: str, target: int) -> None:
    model = onnx.load(LIGHT / f"{name}.onnx")
    assert opset_of(model) < target
    try:
        converted = _raised(model, target)
    except CannotConvert as reason:
        pytest.fail(str(reason))
    onnx.checker.check_model(converted)
    data = usable_data(Session(model), model)
    assert data is not None
    for before, after in zip(_outputs(model, data), _outputs(converted, data), strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-6)


def test_axes_that_became_an_input_are_converted_inside_a_branch() -> None:
    model = text("""g (float[2,3] x, bool c) => (float[2,1,3] y)
        { y = If (c) <then_branch = a () => (float[2,1,3] p) { p = Unsqueeze <axes=[1]> (x) },
                      else_branch = b () => (float[2,1,3] q) { r = Neg (x) q = Unsqueeze <axes=[1]> (r) }> }""",
                 opset=11)  # fmt: skip
    converted = _raised(model, 21)
    feed = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "c": np.array(False)}
    np.testing.assert_array_equal(Session(converted).run(feed)[0], -feed["x"][:, None])


def test_a_model_that_cannot_be_converted_is_left_as_it_was() -> None:
    model = text("g (float[N,64] x, float[64,32] w) => (float[N,32] y) { h = MatMul (x, w) y = Scan2 (h) }",
                 opset=11, w=weight(64, 32))  # fmt: skip
    before = model.SerializeToString()
    with pytest.raises(CannotConvert, match="Scan2"):
        raise_opset(model, 21, lambda wish: wish)
    assert model.SerializeToString() == before


def _function_with_an_attribute() -> ModelProto:
    return onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 11, "own" : 1]>
        g (float[2,3] x) => (float[2,1,3] y) { y = own.between <at=[1]> (x) }
        <domain: "own", opset_import: ["" : 11]>
        between <at> (x) => (y) { y = Unsqueeze <axes: ints = @at> (x) }""")


def test_an_operator_that_takes_an_attribute_of_its_function_is_not_converted() -> None:
    with pytest.raises(CannotConvert, match="Unsqueeze takes an attribute of its function"):
        _raised(_function_with_an_attribute(), 21)
    assert opset_of(_raised(_function_with_an_attribute(), 12)) == 12


def test_a_scan_of_opset_8_is_not_converted() -> None:
    model = text(
        """g (float[1,4,2] x) => (float[1,4,2] y)
        { y = Scan <num_scan_inputs=1, body = b (float[2] a) => (float[2] c) { c = Neg (a) }> ("", x) }""",
        opset=8,
    )
    with pytest.raises(CannotConvert, match="Scan of opset 8"):
        _raised(model, 13)


def test_what_a_conversion_adds_is_measured_and_bounded() -> None:
    model = text("g (float[2,3] x) => (float[2,1,3] y) { h = Unsqueeze <axes=[1]> (x) y = Neg (h) }", opset=11)
    before = model.SerializeToString()
    names = iter(f"fresh.{k}" for k in range(100))
    added = conversion_bytes(model, 21, lambda _: next(names))
    assert added is not None and added == _raised(model, 21).ByteSize() - model.ByteSize() > 0
    assert model.SerializeToString() == before
    assert most_conversion_bytes(model, 21) >= added
    assert conversion_bytes(model, 11, str) == conversion_bytes(model, 9, str) == 0
    assert conversion_bytes(_function_with_an_attribute(), 21, str) is None
    assert most_conversion_bytes(_function_with_an_attribute(), 21) == 0


@pytest.mark.parametrize(("message", "reason"), [("one\nlast line ", "last line"), (" ", "no adapter")])
def test_a_conversion_that_fails_names_the_node_and_the_reason(
    message: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(model: ModelProto, target: int) -> ModelProto:
        raise RuntimeError(message)

    monkeypatch.setattr(onnx.version_converter, "convert_version", fails)
    model = text("g (float[2,3] x) => (float[2,1,3] y) { y = Unsqueeze <axes=[1]> (x) }", opset=11)
    with pytest.raises(CannotConvert, match=rf"^Unsqueeze 'y': {reason}$"):
        _raised(model, 21)


def test_a_model_older_than_the_runtime_that_cannot_be_converted_is_refused() -> None:
    model = text(
        """g (float[N,64] x, float[64,64] w) => (float[N,64] y)
        { h = MatMul (x, w) y = Upsample2 (h) }""",
        opset=5,
        w=weight(64, 64),
    )
    with pytest.raises(ModelError, match="opset 5 is older than ONNX Runtime runs, and cannot be converted"):
        mq.quantize(model, bits=[8], data_free=True, verify=False)
