"""Breaking it on purpose: the proof must notice, say where, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from cases import Fails, classifier, text, weight
from onnx import ModelProto, TensorProto

import mixquant_onnx as mq
from mixquant_onnx.config.stages import FormOptions
from mixquant_onnx.data.noise import Data, synthetic
from mixquant_onnx.export import rewrite as rewriting
from mixquant_onnx.export.encodings import dequantize_linear as native
from mixquant_onnx.export.encodings import folded
from mixquant_onnx.export.encodings.outline import Outline
from mixquant_onnx.export.packed_operators import plain_operators
from mixquant_onnx.model.weights import LocatedWeight, weight_values
from mixquant_onnx.numerics.granularity import WeightAxes
from mixquant_onnx.numerics.noise import sqnr_db
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.quantization.weight import quantize_weight
from mixquant_onnx.runtime.session import RuntimeFailure, Session
from mixquant_onnx.verification import codes as decoding
from mixquant_onnx.verification.divergence import closeness
from mixquant_onnx.verification.equivalence import check_equivalence, dequantized_weights
from mixquant_onnx.verification.quality import quality_of


@dataclass(frozen=True, kw_only=True)
class Case:
    """A rewritten model with what its proof needs. `original` becomes the reference."""

    original: ModelProto
    saved: ModelProto
    sites: dict[str, LocatedWeight]
    quantized: dict[str, QuantizedTensor]
    done: rewriting.Rewritten

    def verify_codes(self) -> str:
        plain = plain_operators(self.saved, self.done.packed)
        return decoding.verify_codes(plain, self.sites, self.quantized, self.done.values, self.done.transposed)

    def check_equivalence(self) -> float:
        data = next(synthetic(self.original))
        with dequantized_weights(self.sites, self.quantized):
            found = check_equivalence(self.saved, self.original, Session(self.saved, "exact"), data, {"float32"})
        assert found is not None
        return found


def rewritten(model: ModelProto, target: Any = "ort", **options: Any) -> Case:
    planned = mq.inspect(model, **options)
    quantized = {
        name: quantize_weight(planned.sites[name].site, weight_values(planned.sites[name]), scheme)
        for name, scheme in planned.plan.sites.items()
    }
    saved = ModelProto()
    saved.CopyFrom(planned.loaded.model)
    done = rewriting.rewrite(saved, planned.sites, quantized, FormOptions(target=target, fused="always"))
    sites = {name: planned.sites[name] for name in quantized}
    return Case(original=planned.loaded.model, saved=saved, sites=sites, quantized=quantized, done=done)


def small(**options: Any) -> Case:
    return rewritten(classifier(), **options)


def large(**options: Any) -> Case:
    model = text("g (float[N,512] x, float[640,512] w, float[640] b) => (float[N,640] y) "
                 "{ y = Gemm <transB=1> (x, w, b) }", w=weight(640, 512), b=weight(640))  # fmt: skip
    return rewritten(model, **options)


FORMS: dict[str, Callable[[], Case]] = {
    "folded, 8 bits": lambda: small(bits=[8]),
    "folded, 3 bits": lambda: small(bits=[3]),
    "folded, one scale": lambda: small(bits=[5], granularity="tensor"),
    "folded, symmetric": lambda: small(bits=[6], symmetric=True),
    "folded in blocks": lambda: small(bits=[4], granularity="block:16"),
    "folded, last block short": lambda: small(bits=[7], granularity="block:24"),
    "fused, 8 bits": lambda: large(bits=[7]),
    "fused, 3 bits": lambda: large(bits=[3], granularity="block:128"),
    "as the kernel reads them, 4 bits": lambda: large(bits=[4], granularity="block:128"),
    "as the kernel reads them, 8 bits": lambda: large(bits=[8]),
    "DequantizeLinear": lambda: small(bits=[4], target="qdq"),
    "DequantizeLinear, 5 bits in blocks": lambda: small(bits=[5], target="qdq", granularity="block:16"),
}


def parts(case: Case) -> list[TensorProto]:
    """All that is stored for the weight w: codes, scales, zero points, and which block is whose."""
    return [t for t in case.saved.graph.initializer if t.name.startswith("w.") and t.data_type != TensorProto.INT64]


def flip(tensor: TensorProto, position: int) -> None:
    """Turn the lowest bit of one byte."""
    data = bytearray(tensor.raw_data)
    data[position] ^= 1
    tensor.raw_data = bytes(data)


@pytest.mark.parametrize("form", FORMS)
def test_one_wrong_bit_in_anything_stored_is_noticed(form: str) -> None:
    case = FORMS[form]()
    assert case.verify_codes() == "ONNX Runtime"
    assert len(parts(case)) >= 3
    for tensor in parts(case):
        whole = tensor.raw_data
        for position in (0, len(whole) // 2 & ~1):
            flip(tensor, position)
            with pytest.raises(mq.ProofError, match="'w'"):
                case.verify_codes()
            tensor.raw_data = whole
    assert case.verify_codes() == "ONNX Runtime"


@pytest.mark.parametrize("form", ["folded, 3 bits", "folded, last block short", "DequantizeLinear"])
def test_numpy_decodes_where_the_runtime_cannot(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernel(*_: object) -> None:
        raise RuntimeFailure("no kernel")

    case = FORMS[form]()
    monkeypatch.setattr(decoding, "decode_with_runtime", no_kernel)
    assert case.verify_codes() == "NumPy"
    for tensor in parts(case):
        flip(tensor, 0)
        with pytest.raises(mq.ProofError, match="'w'"):
            case.verify_codes()
        flip(tensor, 0)


def network() -> ModelProto:
    return text(
        """g (float[1,8,8,8] x, float[16,8,3,3] w, float[16,16,3,3] v, float[1,16,8,8] c) => (float[1,16,8,8] y) {
        [first] a = Conv <pads=[1,1,1,1]> (x, w) [less] b = Sub (a, c) [cut] r = Relu (b)
        [last] y = Conv <pads=[1,1,1,1]> (r, v) }""",
        w=weight(16, 8, 3, 3), v=weight(16, 16, 3, 3), c=weight(1, 16, 8, 8),
    )  # fmt: skip


def named(case: Case, name: str) -> onnx.NodeProto:
    found: list[onnx.NodeProto] = [node for node in case.saved.graph.node if node.name == name]
    assert len(found) == 1
    return found[0]


def shift_padding(node: onnx.NodeProto) -> None:
    (pads,) = [a for a in node.attribute if a.name == "pads"]
    del pads.ints[:]
    pads.ints.extend([0, 0, 2, 2])


def swap_inputs(node: onnx.NodeProto) -> None:
    first, second = node.input
    node.input[0], node.input[1] = second, first


def replace_relu(node: onnx.NodeProto) -> None:
    node.op_type = "Softplus"


@pytest.mark.parametrize(
    ("name", "damage"),
    [("first", shift_padding), ("less", swap_inputs), ("cut", replace_relu), ("last", shift_padding)],
)
def test_a_graph_that_computes_something_else_is_noticed_where_it_starts(
    name: str, damage: Callable[[onnx.NodeProto], None]
) -> None:
    case = rewritten(network(), bits=[6])
    assert case.check_equivalence() > 95
    damage(named(case, name))
    case.verify_codes()
    with pytest.raises(mq.ProofError, match=f"first different at '{name}'"):
        case.check_equivalence()


def test_a_graph_that_lost_a_layer_is_noticed() -> None:
    case = rewritten(network(), bits=[8])
    named(case, "last").input[0] = named(case, "less").output[0]
    with pytest.raises(mq.ProofError, match="first different at 'last'"):
        case.check_equivalence()


def test_an_output_that_should_be_zero_and_is_not_is_noticed() -> None:
    nothing, something = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    assert closeness([[nothing]], [[nothing]]) == (float("inf"), True)
    assert closeness([[nothing]], [[something]])[0] < 0


def without_zero_point(q: QuantizedTensor) -> QuantizedTensor:
    return replace(q, zero_point=np.zeros_like(q.zero_point))


def along_the_other_axis(q: QuantizedTensor) -> QuantizedTensor:
    if q.codes.shape != (64, 64):
        return q
    scale, zero = q.scale.transpose(2, 1, 0), q.zero_point.transpose(2, 1, 0)
    return replace(q, layout=WeightAxes(p=1, r=1), scale=scale, zero_point=zero)


def with_the_scale_of_the_neighbour(q: QuantizedTensor) -> QuantizedTensor:
    return replace(q, scale=np.roll(q.scale, 1, axis=1 if q.scale.shape[1] > 1 else 2))


def with_the_first_code_off_by_one(q: QuantizedTensor) -> QuantizedTensor:
    codes = q.codes.copy()
    codes.flat[0] ^= 1
    return replace(q, codes=codes)


MISTAKES = [
    without_zero_point,
    along_the_other_axis,
    with_the_scale_of_the_neighbour,
    with_the_first_code_off_by_one,
]


def plant(mistake: Callable[[QuantizedTensor], QuantizedTensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both encoders make `mistake`."""

    def made(q: QuantizedTensor) -> QuantizedTensor:
        return q if isinstance(q, Outline) else mistake(q)

    encode_folded, encode_native = folded.encode_folded, native.encode_native
    monkeypatch.setattr(folded, "encode_folded", lambda q, *rest: encode_folded(made(q), *rest))
    monkeypatch.setattr(native, "encode_native", lambda q, *rest: encode_native(made(q), *rest))


@pytest.mark.parametrize("target", ["ort", "qdq"])
@pytest.mark.parametrize("granularity", ["channel", "block:16"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_an_encoder_fails_the_proof(
    mistake: Callable[[QuantizedTensor], QuantizedTensor],
    granularity: str,
    target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mq.quantize(classifier(), granularity=granularity, target=target)
    plant(mistake, monkeypatch)
    with pytest.raises(mq.ProofError, match=r"'[vw]' \(w\d"):
        mq.quantize(classifier(), granularity=granularity, target=target)


def test_a_failed_proof_leaves_no_file_and_has_its_own_exit_code(
    model: Path, output: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(without_zero_point, monkeypatch)
    assert "verification failed at 'v'" in fails(8, model, output)
    output.write_bytes(b"\x08precious")
    assert "verification failed at 'v'" in fails(8, model, output)
    assert "verification failed at 'v'" in fails(8, model, model)


def test_a_result_that_does_not_load_fails_the_proof(
    model: Path, output: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown_operator(q: QuantizedTensor, *rest: Any) -> Any:
        encoded = encode_folded(q, *rest)
        encoded.nodes[0].op_type = "Unknown"
        return encoded

    encode_folded = folded.encode_folded
    monkeypatch.setattr(folded, "encode_folded", unknown_operator)
    assert "ONNX Runtime does not load the result" in fails(8, model, output)


@pytest.mark.parametrize("rounding", ["compensated", "nearest"])
@pytest.mark.parametrize(("baseline", "qem"), [("int8", 0.5), ("int8", 2), ("int8", 10), ("same", 1), ("same", 5)])
def test_the_error_as_written_keeps_the_promise_of_qem(
    baseline: Literal["int8", "same"], qem: float, rounding: Literal["compensated", "nearest"]
) -> None:
    result = mq.quantize(classifier(), qem=qem, rounding=rounding, baseline=baseline)
    for name, error in result.qe.items():
        assert min(cell.qe for cell in result.table[name].candidates) <= qem * result.table[name].baseline
        assert error <= qem * result.table[name].baseline * 1.0001


def test_metrics_are_those_of_the_textbook() -> None:
    reference, other = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[3.0, 3.0], [0.0, 0.0]])
    assert sqnr_db(reference, other) == pytest.approx(10 * np.log10(25))
    assert sqnr_db(reference, reference) == float("inf")
    assert sqnr_db(reference, np.array([[np.nan, 1], [0, 0]])) == float("-inf")
    with pytest.raises(ValueError, match="shapes differ"):
        sqnr_db(reference, other[:1])
    found = quality_of("exact", [[reference]], [[other]], ["y"], {})
    assert found.cosine == pytest.approx(21 / (5 * np.sqrt(18)))
    found = quality_of("exact", [[np.eye(4)]], [[np.eye(4)[[0, 1, 3, 2]]]], ["y"], {"y": 1})
    assert found.top1_agreement == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_in_both_cancels_and_in_one_alone_is_an_infinite_error(value: float) -> None:
    reference, other = np.array([value, 3.0, 4.0]), np.array([value, 3.0, 3.0])
    assert sqnr_db(reference, other) == pytest.approx(10 * np.log10(25))
    assert sqnr_db(np.array([1.0, 3.0, 4.0]), other) == float("-inf")
    assert sqnr_db(reference, np.array([1.0, 3.0, 3.0])) == float("-inf")


def test_samples_are_rows_of_the_first_input() -> None:
    feeds = ({"x": np.zeros((3, 2))}, {"x": np.zeros((4, 2))})
    assert Data(feeds=feeds, labels=None, origin="noise").rows == 7
