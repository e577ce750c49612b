from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from cases import text, weight

import mixquant_onnx as mq


def _model() -> onnx.ModelProto:
    return text("g (float[N,64] x, float[64,32] w) => (float[N,32] y) { y = MatMul (x, w) }", w=weight(64, 32))


def test_a_graphsurgeon_graph_is_quantized() -> None:
    result = mq.quantize(gs.import_onnx(_model()), bits=5)
    assert list(result.plan.sites) == ["w"]
    assert result.verification is not None and (result.verification.quality[0].sqnr_db or 0) > 20


def test_feeds_in_memory_count_as_data() -> None:
    feeds = [{"x": np.ones((3, 64), np.float32)}, {"x": np.zeros((2, 64), np.float32)}]
    for data, samples in ((feeds, 5), (feeds[0], 3)):
        proof = mq.quantize(_model(), data=data).verification
        assert proof is not None and proof.samples == samples and not proof.synthetic
    with pytest.raises(mq.DataError, match="'x'"):
        mq.quantize(_model(), data={"z": feeds[0]["x"]})


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(mq.OptionError, match="'qemm'"):
        mq.quantize(_model(), qemm=2)  # type: ignore[call-arg]


def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    import os

    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    with pytest.raises(mq.OutputError, match="device"):
        mq.quantize(_model(), pipe)
    assert pipe.is_fifo()


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to(tmp_path / "target.onnx")
    mq.quantize(_model(), tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink() and (tmp_path / "target.onnx").stat().st_size > 1000


@pytest.mark.parametrize("in_place", [True, False])
def test_external_data_of_a_replaced_output_does_not_pile_up(tmp_path: Path, in_place: bool) -> None:
    source = tmp_path / "in.onnx"
    onnx.save(_model(), source, save_as_external_data=True, location="in.onnx.data", size_threshold=0)
    output = source if in_place else tmp_path / "out.onnx"
    for _ in range(1 if in_place else 3):
        mq.quantize(source, output, bits=[8])
    onnx.load(output)
    kept = sorted(path.name for path in tmp_path.glob("*.data"))
    assert len(kept) == (1 if in_place else 2)
    assert in_place or "in.onnx.data" in kept


def test_a_nested_if_is_quantized_where_its_weight_is() -> None:
    inner = """g (float[N,64] x, bool c) => (float[N,32] y)
        { y = If (c) <then_branch = a () => (float[N,32] ya)
            { ya = If (c) <then_branch = b () => (float[N,32] yb) { yb = MatMul (x, w) },
                           else_branch = d () => (float[N,32] yd) { yd = MatMul (x, v) }> },
          else_branch = e () => (float[N,32] ye) { ye = MatMul (x, u) }> }"""
    values = {name: weight(64, 32, seed=seed) for seed, name in enumerate("wvu")}
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {inner}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in values.items())
    branch = model.graph.node[0].attribute[0].g
    for tensor in list(model.graph.initializer)[:2]:
        branch.node[0].attribute[0 if tensor.name == "w" else 1].g.initializer.append(tensor)
    del model.graph.initializer[:2]
    result = mq.quantize(model, bits=[6])
    assert len(result.plan.sites) == 3
    assert result.verification is not None and result.verification.codes == 3
