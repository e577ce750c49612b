"""Reconstruction of blocks: operators against ONNX Runtime, the gain, and what happens where it cannot be done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

import torch
from cases import Fails, text
from onnx import ModelProto, TensorProto, helper, numpy_helper

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.data.noise import Data
from mixquant_onnx.model.operators import OPERATORS
from mixquant_onnx.model.weights import find
from mixquant_onnx.numerics.granularity import Granularity
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.quantization import methods as options_module
from mixquant_onnx.quantization.reconstruction import brecq, learning
from mixquant_onnx.quantization.reconstruction import torch_operators as operators
from mixquant_onnx.quantization.reconstruction.blockwise import Blockwise
from mixquant_onnx.quantization.reconstruction.soft_rounding import SoftWeight
from mixquant_onnx.quantization.reconstruction.torch_operators import Program, UnknownOperator
from mixquant_onnx.quantization.rounding import shrinkage
from mixquant_onnx.quantization.weight import quantize_weight
from mixquant_onnx.runtime.session import Session

pytestmark = pytest.mark.usefixtures("stored_at_a_loss")
"""These graphs are small: most of their weights take fewer bytes as float."""

MODELS = Path(__file__).resolve().parent.parent / "models"
CNN = MODELS / "digits_cnn"
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def values(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


def indices(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


CASES: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "Conv": ("Conv", [values(2, 4, 9, 9), values(6, 2, 3, 3), values(6)], {"group": 2, "strides": [2, 2]}),
    "Conv uneven pads": ("Conv", [values(1, 3, 8, 8), values(4, 3, 3, 3)], {"pads": [0, 1, 2, 1]}),
    "Conv same": ("Conv", [values(1, 3, 8, 8), values(4, 3, 3, 3)], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "Conv same upper": ("Conv", [values(1, 3, 8), values(4, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2]}),
    "Conv valid": ("Conv", [values(1, 3, 8), values(4, 3, 3)], {"auto_pad": "VALID"}),
    "Conv 1d": ("Conv", [values(2, 3, 11), values(4, 3, 3)], {"dilations": [2], "pads": [2, 2]}),
    "Gemm": ("Gemm", [values(3, 5), values(4, 5), values(4)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    "MatMul": ("MatMul", [values(2, 3, 5), values(5, 4)], {}),
    "Clip": ("Clip", [values(3, 5), np.float32(-0.5), np.float32(0.5)], {}),
    "HardSigmoid": ("HardSigmoid", [values(3, 5)], {"alpha": 0.3}),
    "HardSwish": ("HardSwish", [3 * values(3, 5)], {}),
    "LeakyRelu": ("LeakyRelu", [values(3, 5)], {}),
    "Softmax": ("Softmax", [values(3, 5, 4)], {"axis": 1}),
    "LayerNormalization": ("LayerNormalization", [values(3, 5, 4), values(4), values(4)], {"epsilon": 1e-3}),
    "BatchNormalization": (
        "BatchNormalization", [values(2, 3, 4, 4), values(3), values(3), values(3), np.abs(values(3))], {},
    ),
    "GlobalAveragePool": ("GlobalAveragePool", [values(2, 3, 4, 4)], {}),
    "AveragePool": ("AveragePool", [values(2, 3, 8, 8)], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "MaxPool": ("MaxPool", [values(2, 3, 8, 8)], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "ReduceMean": ("ReduceMean", [values(2, 3, 4)], {"axes": [1, 2], "keepdims": 0}),
    "ReduceSum": ("ReduceSum", [values(2, 3, 4), indices(1)], {}),
    "Reshape": ("Reshape", [values(2, 3, 4), indices(0, -1)], {}),
    "Flatten": ("Flatten", [values(2, 3, 4)], {}),
    "Transpose": ("Transpose", [values(2, 3, 4)], {"perm": [0, 2, 1]}),
    "Squeeze": ("Squeeze", [values(2, 1, 4), indices(1)], {}),
    "Unsqueeze": ("Unsqueeze", [values(2, 4), indices(0, 3)], {}),
    "Concat": ("Concat", [values(2, 1), values(2, 3)], {"axis": -1}),
    "Slice": ("Slice", [values(4, 6), indices(1), indices(-1), indices(1), indices(2)], {}),
    "Gather": ("Gather", [values(4, 6), np.array([[0, -1], [2, 1]], np.int64)], {"axis": 1}),
    "Pad": ("Pad", [values(1, 2, 3, 3), indices(0, 1, 0, 2, 0, 1, 0, 0)], {}),
    "Expand": ("Expand", [values(3, 1), indices(2, 3, 4)], {}),
    "Where": ("Where", [values(3, 4) > 0, values(3, 4), values(4)], {}),
    "Cast": ("Cast", [indices(1, 2)], {"to": int(TensorProto.FLOAT)}),
    "Erf": ("Erf", [values(3, 4)], {}),
    "Pow": ("Pow", [np.abs(values(3, 4)), np.float32(1.5)], {}),
    "Shape": ("Shape", [values(3, 4)], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operators_compute_what_onnxruntime_computes(name: str) -> None:
    op, arrays, attributes = CASES[name]
    names = [f"i{k}" for k in range(len(arrays))]
    node = helper.make_node(op, names, ["y"], **attributes)
    kinds = [helper.np_dtype_to_tensor_dtype(np.asarray(a).dtype) for a in arrays]
    inputs = [helper.make_tensor_value_info(n, k, None) for n, k in zip(names, kinds, strict=True)]
    graph = helper.make_graph([node], "g", inputs, [helper.make_empty_tensor_value_info("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feed = {n: np.asarray(a) for n, a in zip(names, arrays, strict=True)}
    wanted = Session(model).run(feed)[0]
    found = Program([node]).run({n: torch.from_numpy(np.array(a)) for n, a in feed.items()}, ["y"])[0].numpy()
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_every_function_named_in_the_table_of_operators_exists() -> None:
    named = {row.torch for row in OPERATORS.values() if row.torch}
    assert all(callable(operators.function_of(name)) for name in named)
    assert set(operators.FUNCTIONS) <= named
    with pytest.raises(UnknownOperator, match="no_such"):
        operators.function_of("no_such")


def test_inspect_marks_what_a_block_cannot_be_reconstructed_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for middle, marked in (("Sin", True), ("Relu", False)):
        onnx.save(two_layers(middle)[0], tmp_path / "m.onnx")
        assert main(["inspect", str(tmp_path / "m.onnx"), "--blocks", "--min-size", "1"]) == 0
        shown = capsys.readouterr().out
        assert (f"{middle}*" in shown) == marked
        assert ("not known to --method brecq" in shown) == marked


def test_an_operator_that_is_not_known_is_named() -> None:
    with pytest.raises(UnknownOperator, match="Sin"):
        Program([helper.make_node("Sin", ["x"], ["y"])])


def two_layers(middle: str = "Relu", rows: int = 256) -> tuple[ModelProto, dict[str, Any]]:
    """y = middle(x a) b + x: a residual block; inputs with strongly correlated columns."""
    weights = {name: values(16, 16) / 4 for name in ("a", "b")}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node(middle, ["h"], ["i"]),
        helper.make_node("MatMul", ["i", "b"], ["j"]), helper.make_node("Add", ["j", "x"], ["y"]),
    ]  # fmt: skip
    stored = [numpy_helper.from_array(v, n) for n, v in weights.items()]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, {"x": values(rows, 4) @ values(4, 16) + 0.1 * values(rows, 16)}


def error(model: ModelProto, changed: ModelProto, feed: dict[str, Any]) -> float:
    first, second = Session(model).run(feed)[0], Session(changed).run(feed)[0]
    return float(np.sum((first - second) ** 2) / np.sum(first**2))


def quantized(model: ModelProto, feed: dict[str, Any], method: str, **more: Any) -> mq.RunResult:
    """On all rows of `feed`: none are spared to judge by."""
    given: dict[str, Any] = {"exact": True, "rounding": "nearest", "verify": False, "min_size": 1, "bits": 3} | more
    return mq.quantize(model, method=method, data=feed, eval_data=feed, **given)


def trained(method: str, **more: Any) -> tuple[float, mq.RunResult]:
    """A residual block of the CNN at 2 bits: error of the network's output on the rows calibrated with."""
    model = onnx.load(CNN / "model.onnx")
    feed = {"input": np.load(CNN / "calib.npz")["input"][:48]}
    result = quantized(model, feed, method, bits=2, include=["stage2*"], min_size=256, **more)
    return error(model, result.model, feed), result


@pytest.mark.slow
def test_a_reconstructed_block_is_closer_to_float_than_its_layers_alone() -> None:
    ours, result = trained("brecq", iterations=200)
    assert "1 of 1 blocks are better" in result.notes[0]
    assert ours < 0.9 * trained("adaround")[0]
    assert ours < 0.5 * trained("mse")[0]


@pytest.mark.slow
def test_the_seed_decides_and_nothing_else() -> None:
    first, again, other = (trained("brecq", seed=s, iterations=60)[1].model for s in (1, 1, 2))
    assert first.SerializeToString() == again.SerializeToString()
    assert first.SerializeToString() != other.SerializeToString()


def test_where_nothing_is_gained_the_layers_alone_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """One iteration at a wild rate makes the block worse."""
    monkeypatch.setattr(learning, "RATE", 1e3)
    worse, result = trained("brecq", iterations=1)
    monkeypatch.setattr(brecq, "_TOLERANCE", -1.0)
    refused, other = trained("brecq")
    assert "layer by layer" in other.notes[0]
    assert worse == refused
    before, after = result.notes[0].split("error ")[1].split(";")[0].split(" -> ")
    assert before == after


@pytest.mark.slow
def test_the_regulariser_leaves_next_to_no_weight_open() -> None:
    model = onnx.load(CNN / "model.onnx")
    data = {"input": np.load(CNN / "calib.npz")["input"][:48]}
    site = next(iter(find(model, 256).sites))
    result = mq.quantize(model, method="brecq", data=data, bits=3, include=[site], verify=False, iterations=300)
    share = float(result.notes[0].split("at most ")[1].split("%")[0])
    assert share < 3


@pytest.mark.parametrize(("middle", "rows", "reason"), [("Sin", 256, "operator Sin"), ("Relu", 20, "fewer than")])
def test_a_block_that_cannot_be_reconstructed_is_quantized_layer_by_layer(
    middle: str, rows: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brecq, "FEWEST_ROWS", 24)
    ratios = []
    for _ in range(4):
        model, feed = two_layers(middle, rows)
        result = quantized(model, feed, "brecq")
        assert any("layer by layer" in note and reason in note for note in result.notes)
        alone = quantized(model, feed, "adaround")
        ratios.append(error(model, result.model, feed) / error(model, alone.model, feed))
    assert np.mean(ratios) < 1.1  # 0.96 over 16 draws, of which one alone is from 0.79 to 1.10


def test_a_block_that_torch_computes_differently_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feed = two_layers()
    monkeypatch.setitem(operators.FUNCTIONS, "relu", lambda at, i: torch.relu(i[0]) * 1.01)
    result = quantized(model, feed, "brecq")
    assert any("torch differs from ONNX Runtime by" in note for note in result.notes)


def test_finished_blocks_are_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, feed = two_layers()
    first = quantized(model, feed, "brecq", iterations=50, resume=tmp_path).model
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.delattr(torch.optim, "Adam")
    assert quantized(model, feed, "brecq", iterations=50, resume=tmp_path).model == first
    with pytest.raises(AttributeError):
        quantized(model, feed, "brecq", iterations=51, resume=tmp_path)
    next(tmp_path.iterdir()).write_bytes(b"cut")
    with pytest.raises(AttributeError):
        quantized(model, feed, "brecq", iterations=50, resume=tmp_path)


def chain(blocks: int, tail: str = "") -> ModelProto:
    """Residual blocks of two layers on [n, 16], their weights fixed."""
    random = np.random.default_rng(3)
    lines: list[str] = []
    weights: dict[str, Any] = {}
    for k in range(blocks):
        before = "x" if k == 0 else f"y{k - 1}"
        lines.append(f"h{k} = MatMul ({before}, a{k}) i{k} = Relu (h{k}) j{k} = MatMul (i{k}, b{k}) "
                     f"y{k} = Add (j{k}, {before})")  # fmt: skip
        weights |= {f"{part}{k}": random.standard_normal((16, 16)).astype(np.float32) / 4 for part in "ab"}
    declared = "".join(f", float[16,16] {name}" for name in weights)
    outputs = f"float[n,16] y{blocks - 1}{tail}"
    return text(f"g (float[n,16] x{declared}) => ({outputs}) {{ {' '.join(lines)} }}", **weights)


@pytest.mark.parametrize("kept", [1, 2])
def test_an_interrupted_run_that_goes_on_gives_what_one_run_gives(kept: int, tmp_path: Path) -> None:
    model, feed = chain(3), two_layers()[1]
    whole = quantized(model, feed, "brecq", iterations=50, resume=tmp_path)
    files = sorted(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    for file in files[kept:]:
        file.unlink()
    again = quantized(model, feed, "brecq", iterations=50, resume=tmp_path)
    assert again.model == whole.model
    assert any(f"{kept} of 3 blocks are those of an earlier run" in note for note in again.notes)
    sums = [next(note for note in run.notes if "of 3 blocks are better" in note) for run in (whole, again)]
    assert sums[0] == sums[1]


@pytest.mark.parametrize("damage", ["cut", "flipped", "of another shape"])
def test_a_damaged_block_of_an_earlier_run_is_made_again(damage: str, tmp_path: Path) -> None:
    model, feed = two_layers()
    first = quantized(model, feed, "brecq", iterations=50, resume=tmp_path).model
    file = next(tmp_path.iterdir())
    content = file.read_bytes()
    if damage == "of another shape":
        with np.load(file) as stored:
            np.savez(file, **{name: part[:8] if part.ndim == 2 else part for name, part in stored.items()})
    else:
        middle = content.index(b"codes/") + 200
        file.write_bytes(content[:middle] if damage == "cut" else content[:middle] + b"??" + content[middle + 2 :])
    assert quantized(model, feed, "brecq", iterations=50, resume=tmp_path).model == first


def test_a_folder_that_cannot_be_used_is_told_before_any_work(tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "file").touch()
    arguments = ("--method", "brecq", "--data", CNN / "calib.npz", "--resume", tmp_path / "file")
    assert "cannot be written" in fails(4, tmp_path / "missing.onnx", tmp_path / "out.onnx", *arguments)


@pytest.mark.parametrize("first", ["n", 48])
def test_rows_that_depend_on_each_other_are_not_taken_apart(first: str | int) -> None:
    """Attention over the first axis, as in models that take the sequence first."""
    weights = {name: values(16, 16) / 4 for name in "qkv"}
    declared = "".join(f", float[16,16] {name}" for name in weights)
    model = text(
        f"""g (float[{first},16] x{declared}) => (float[{first},16] y)
        {{ a = MatMul (x, q) b = MatMul (x, k) c = MatMul (x, v) t = Transpose (b) s = MatMul (a, t)
           p = Softmax <axis = -1> (s) o = MatMul (p, c) y = Add (o, x) }}""", **weights,
    )  # fmt: skip
    result = quantized(model, {"x": values(48, 16)}, "brecq", iterations=30)
    assert any("its rows cannot be taken apart: torch differs" in note for note in result.notes)


def test_a_batch_that_is_part_of_the_graph_is_quantized_layer_by_layer() -> None:
    model = text(
        """g (float[1,16] x, float[16,16] w, float[16,16] v) => (float[1,16] y)
        { h = MatMul (x, w) r = Relu (h) s = Constant <value = int64[2] {1, 16}> () f = Reshape (r, s)
          y = MatMul (f, v) }""", w=values(16, 16), v=values(16, 16),
    )  # fmt: skip
    feeds = [{"x": values(1, 16)} for _ in range(40)]
    result = mq.quantize(model, data=feeds, method="brecq", bits=3, iterations=30, verify=False, min_size=1)
    assert any("its rows cannot be taken apart: it does not run in torch" in note for note in result.notes)


def test_what_is_no_row_of_the_output_is_told_as_that() -> None:
    model = text(
        """g (float[n,16] x, float[m,16] z, float[16,16] w, float[16,16] v) => (float[n,16] y)
        { h = MatMul (x, w) r = Relu (h) t = MatMul (z, v) s = ReduceMean <axes = [0]> (t) y = Add (r, s) }""",
        w=values(16, 16), v=values(16, 16),
    )  # fmt: skip
    feeds = [{"x": values(20, 16), "z": values(30, 16)} for _ in range(2)]
    result = mq.quantize(model, data=feeds, method="brecq", bits=3, iterations=30, verify=False, min_size=1)
    assert any("its input 'z' has no row for each row of its output" in note for note in result.notes)


def test_weights_in_no_block_are_told() -> None:
    model = text(
        """g (float[n,16] x, float[16,16] w) => (float[n,16] y)
        { h = MatMul (x, w) r = Relu (h) y = MatMul (r, w) }""", w=values(16, 16),
    )  # fmt: skip
    result = quantized(model, {"x": values(40, 16)}, "brecq", iterations=30)
    assert any("1 weight is in no block ('w')" in note for note in result.notes)


def matmul_block(rows: int = 64) -> tuple[learning.BlockLoss, Any]:
    """y = x w, w at 2 bits, inputs of very different sizes."""
    weight = values(16, 16)
    site = find(two_layers()[0], 1).sites["a"].site
    q = quantize_weight(site, weight, Scheme(bits=2, grid=Granularity(per="channel"), method="mse"))
    x = torch.from_numpy(values(rows, 16) * np.geomspace(0.1, 3, 16, dtype=np.float32))
    target = x @ torch.from_numpy(weight)
    program = Program([helper.make_node("MatMul", ["x", "w"], ["y"])])
    samples = learning.Samples(rows={"x": x}, fixed={}, target=target, learned=rows - 8)
    return learning.BlockLoss(program=program, output="y", constants={}, samples=samples), SoftWeight(weight, q)


def test_curvature_is_how_fast_the_error_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of y = x w: the mean square of the input."""
    monkeypatch.setattr(learning, "_DRAWS", 400)
    loss, _ = matmul_block()
    samples = loss.samples
    random = torch.Generator().manual_seed(0)
    learned = torch.arange(samples.learned)
    found = learning._curvatures(loss, {"w": torch.zeros(16, 16)}, learned, random)["w"]
    wanted = (samples.rows["x"][: samples.learned] ** 2).mean(0)
    assert float((found / wanted[:, None] - 1).abs().max()) < 0.35
    assert float((found.mean(1) / wanted - 1).abs().max()) < 0.25


def test_distance_counts_from_the_weight_it_started_as() -> None:
    _, soft = matmul_block()
    curvature = torch.full((16, 16), 2.0)
    stays = soft.at((soft._code > soft._floor).float())
    moved = soft.at((soft._code <= soft._floor).float())
    for up, wanted in (((soft._code > soft._floor), 0.0), ((soft._code <= soft._floor), 2 * (moved - stays) ** 2)):
        with torch.no_grad():
            soft.hidden.copy_(torch.where(up, 20.0, -20.0))
        assert float(soft.away(curvature).detach()) == pytest.approx(float(torch.as_tensor(wanted).sum()), rel=1e-4)


@pytest.mark.parametrize(("gains", "tries"), [(True, 1), (False, 2)])
def test_what_does_worse_on_other_rows_is_learned_anew_and_nearer(
    gains: bool, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def step(*given: Any) -> int:
        soft, curvatures = given[1]["w"], given[-1]["w"]
        seen.append(float(curvatures.sum()))
        with torch.no_grad():
            soft.hidden.copy_(torch.where(best if gains else worst, 20.0, -20.0))
        return 1

    loss, soft = matmul_block()
    stays = soft._code > soft._floor
    worst, best = ~stays, stays
    monkeypatch.setattr(learning, "_descend", step)
    start = {"w": soft.at(stays.float()) + (0.5 if gains else 0)}
    outcome = learning.learn(loss, {"w": soft}, start, 10, 0)
    assert (outcome.after < outcome.before) == gains
    assert len(seen) == tries
    assert seen[1:] == [pytest.approx(10 * seen[0])] * (tries - 1)


@pytest.mark.parametrize("share", [1.0, 0.875])
@pytest.mark.parametrize("count", [16, 17, 40, 500])
def test_what_is_learned_is_judged_on_other_rows(count: int, share: float) -> None:
    known = int(share * count)
    samples = learning.Samples(rows={}, fixed={}, target=torch.zeros(count, 1), learned=known)
    learned, judged = learning._rows(samples)
    assert sorted([*learned.tolist(), *judged.tolist()]) == list(range(count))
    assert len(judged) == (count // 8 if known == count else count - known)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What blocks start from; all are refused."""
    found: list[dict[str, Any]] = []

    def refuse(self: Blockwise, name: str, given: dict[str, Any]) -> None:
        found.append({n: q.codes for n, q in given.items()})

    monkeypatch.setattr(Blockwise, "reconstruct", refuse)
    return found


def test_what_blocks_start_from_has_not_seen_what_judges_it(starts: list[dict[str, Any]]) -> None:
    """Rows held back that are something else altogether do not change it, and do change what a refused block gets."""
    model, feed = two_layers(rows=40)
    made = []
    for factor in (1, 100):
        x = feed["x"].copy()
        x[28:32] *= factor * values(4, 16)
        made.append(quantized(model, {"x": x}, "brecq").model)
    first, second = starts
    assert set(first) == {"a", "b"}
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert made[0].graph.initializer != made[1].graph.initializer


def test_a_refused_block_gets_what_gptq_makes_of_all_rows(
    starts: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shrinkage, "_SAMPLE_WEIGHTS", (1.0,))
    model, feed = two_layers(rows=200)
    refused, alone = (quantized(model, feed, method).model for method in ("brecq", "gptq"))
    assert starts
    assert refused.graph.initializer == alone.graph.initializer


@pytest.mark.parametrize(("rows", "held"), [(16, 0), (29, 0), (32, 4), (40, 4), (64, 8)])
def test_rows_are_held_back_where_enough_are_left(rows: int, held: int) -> None:
    model, feed = two_layers(rows=rows)
    data = Data(feeds=(feed,), labels=None, axes={"x": 0})
    calibration = Calibration(model, find(model, 1).sites, data, hold_back=True)
    assert sum(len(one["x"]) for one in calibration.feeds[calibration.learned :]) == held
    assert sum(len(one["x"]) for one in calibration.feeds) == rows


def test_a_weight_inside_a_block_that_is_not_of_it_is_calibrated(samples_met: list[tuple[str, int]]) -> None:
    """Read by a layer of the block and by another one: reconstructed alone, from its inputs in the block."""
    model = text(
        """agraph (float[n,16] x, float[16,16] a, float[16,16] w, float[16,16] c) => (float[n,16] y)
        { h = MatMul (x, a) i = MatMul (x, w) s = Add (h, i) r = Relu (s) z = MatMul (r, c)
          t = Relu (z) y = MatMul (t, w) }""", a=values(16, 16), w=values(16, 16), c=values(16, 16),
    )  # fmt: skip
    quantized(model, {"x": values(64, 16)}, "brecq", iterations=10)
    assert dict(samples_met)["w"] == 64


def test_a_weight_that_leads_nowhere_is_quantized_layer_by_layer() -> None:
    model, feed = two_layers()
    model.graph.node.insert(1, helper.make_node("MatMul", ["x", "c"], ["nowhere"]))
    model.graph.initializer.append(numpy_helper.from_array(values(16, 16), "c"))
    result = quantized(model, feed, "brecq", iterations=10)
    assert set(result.plan.sites) >= {"a", "b"}


def test_blocks_of_an_earlier_run_on_other_feeds_are_not_taken_up(tmp_path: Path) -> None:
    """The same rows in another order: what is held back differs."""
    model, feed = two_layers(rows=64)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = value.name
    quantized(model, feed, "brecq", iterations=5, resume=tmp_path)
    count = len(list(tmp_path.iterdir()))
    halves = [{"x": feed["x"][32:]}, {"x": feed["x"][:32]}]
    mq.quantize(
        model, method="brecq", data=halves, eval_data=feed, exact=True, verify=False, min_size=1, bits=3,
        iterations=5, resume=tmp_path, rounding="nearest",
    )  # fmt: skip
    assert len(list(tmp_path.iterdir())) == 2 * count > 0


def test_torch_that_does_not_import_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libtorch.so: cannot open\nmore")

    monkeypatch.setattr(options_module, "import_module", broken)
    model, feed = two_layers()
    with pytest.raises(mq.OptionError, match=r"libtorch\.so: cannot open"):
        quantized(model, feed, "brecq")


def test_a_plan_says_by_which_seed_it_was_made() -> None:
    model, feed = two_layers()
    assert quantized(model, feed, "brecq", iterations=30, seed=7).plan.settings["seed"] == 7
    assert "seed" not in quantized(model, feed, "gptq").plan.settings


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options_module, "find_spec", lambda name: None)
    model, feed = two_layers()
    with pytest.raises(mq.OptionError, match=r"pip install 'mixquant-onnx\[reconstruct\]'"):
        quantized(model, feed, "brecq")


def test_the_core_never_imports_torch() -> None:
    code = (
        "import sys, mixquant_onnx as mq; from pathlib import Path; root = Path(sys.argv[1]);"
        "mq.quantize(root / 'model.onnx', method='gptq', bits=4, data=root / 'calib.npz', verify=False);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(CNN)], check=True)


def test_brecq_needs_data() -> None:
    with pytest.raises(mq.OptionError, match="--data"):
        mq.quantize(two_layers()[0], method="brecq", data_free=True)
    with pytest.raises(mq.DataError, match="--data"):
        mq.quantize(two_layers()[0], method="brecq")
