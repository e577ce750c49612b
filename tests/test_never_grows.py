"""No output is larger than its input: a search over small graphs of every operator, and the cases reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import PROPERTIES, Fails, put, text, weight
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import mixquant_onnx as mq
from mixquant_onnx import pipeline
from mixquant_onnx.cli.main import main
from mixquant_onnx.config.stages import FormOptions
from mixquant_onnx.export import file_sizes, place
from mixquant_onnx.export.file_sizes import FileSizes
from mixquant_onnx.export.size import Stored, worth_storing
from mixquant_onnx.model import files as model_io
from mixquant_onnx.model.operators import OPERATORS
from mixquant_onnx.model.weights import find
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning import bounds
from mixquant_onnx.planning import planned as planning
from mixquant_onnx.planning.plan import Plan
from mixquant_onnx.quantization.network import Layers


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A node: shapes of its inputs by position (those of weights first come as constants), its first opset."""

    op: str
    weights: Mapping[int, tuple[int, ...]]
    others: Mapping[int, tuple[int, ...]]
    attributes: dict[str, Any]
    since: int = 7
    integers: tuple[int, ...] = ()
    domain: str = ""
    runs: bool = True


Sizes = tuple[int, int, int]
"""Two multiples of 4, and a kernel width."""


def _conv(op: str) -> Callable[[Sizes], Layer]:
    def layer(sizes: Sizes) -> Layer:
        a, b, k = sizes
        group = 4 if b % 8 else 1
        shape = (a, b // group, k, k) if op != "ConvTranspose" else (a, b, k, k)
        channels = b if op != "ConvTranspose" else a
        return Layer(op=op, weights={1: shape}, others={0: (1, channels, 9, 9)}, attributes={"group": group})

    return layer


def _deform(sizes: Sizes) -> Layer:
    a, b, _ = sizes
    others = {0: (1, b, 5, 5), 2: (1, 18, 3, 3)}
    return Layer(op="DeformConv", weights={1: (a, b, 3, 3)}, others=others, attributes={}, since=19)


def _gemm(sizes: Sizes) -> Layer:
    a, b, k = sizes
    shape = (b, a) if k > 1 else (a, b)
    return Layer(op="Gemm", weights={1: shape}, others={0: (3, a), 2: (b,)}, attributes={"transB": int(k > 1)})


def _gather_from(op: str, sizes: Sizes, indices: tuple[int, ...]) -> Layer:
    """From a table that is wide enough to be a weight."""
    table = (sizes[0], 2 * sizes[1])
    return Layer(op=op, weights={0: table}, others={1: indices}, attributes={}, since=11, integers=(1,))


def _recurrent(op: str, gates: int) -> Callable[[Sizes], Layer]:
    def layer(sizes: Sizes) -> Layer:
        a, b, _ = sizes
        weights = {1: (1, gates * b, a), 2: (1, gates * b, b)}
        return Layer(op=op, weights=weights, others={0: (2, 1, a)}, attributes={"hidden_size": b})

    return layer


LAYERS: dict[tuple[str, str], Callable[[Sizes], Layer]] = {
    ("", "Conv"): _conv("Conv"),
    ("", "ConvTranspose"): _conv("ConvTranspose"),
    ("", "DeformConv"): _deform,
    ("", "Gemm"): _gemm,
    ("", "MatMul"): lambda s: Layer(op="MatMul", weights={1: s[:2]}, others={0: (s[2], s[0])}, attributes={}),
    ("", "Gather"): lambda s: Layer(op="Gather", weights={0: s[:2]}, others={1: (3,)}, attributes={}, integers=(1,)),
    ("", "GatherND"): lambda s: _gather_from("GatherND", s, (3, 1)),
    ("", "GatherElements"): lambda s: _gather_from("GatherElements", s, (s[0], 3)),
    ("", "LSTM"): _recurrent("LSTM", 4),
    ("", "GRU"): _recurrent("GRU", 3),
    ("", "RNN"): _recurrent("RNN", 1),
    ("", "Einsum"): lambda s: Layer(
        op="Einsum", weights={1: s[:2]}, others={0: (2, s[0])}, attributes={"equation": "ij,jk->ik"}, since=12
    ),
}


def _contrib(key: tuple[str, str]) -> Callable[[Sizes], Layer]:
    """An operator of com.microsoft by its rows alone; it is not run."""
    places = [row.index for row in OPERATORS[key].weights]

    def layer(sizes: Sizes) -> Layer:
        a, b, _ = sizes
        others = {i: (3, a) for i in range(max(places) + 1) if i not in places}
        return Layer(
            op=key[1], domain=key[0], weights=dict.fromkeys(places, (a, b)), others=others, attributes={}, runs=False
        )

    return layer


WEIGHED = [key for key, row in OPERATORS.items() if row.weights]
LAYERS |= {key: _contrib(key) for key in WEIGHED if key not in LAYERS}


def build(layers: list[Layer], dtype: str, opset: int, ir: int) -> ModelProto:
    """The layers side by side, no two weights alike: equal ones are stored once. float16 stands behind Cast."""
    nodes: list[NodeProto] = []
    inputs, outputs, stored = [], [], []
    for number, layer in enumerate(layers):
        names = [""] * (1 + max([*layer.weights, *layer.others]))
        for index, shape in layer.others.items():
            kind = TensorProto.INT64 if index in layer.integers else TensorProto.FLOAT
            names[index] = f"x{number}_{index}"
            inputs.append(helper.make_tensor_value_info(names[index], kind, shape))
        for index, shape in layer.weights.items():
            names[index] = f"w{number}_{index}"
            values = weight(*shape, seed=10 * number + index, dtype=np.dtype(dtype))
            stored.append(numpy_helper.from_array(values, names[index]))
            if dtype == "float16":
                nodes.append(helper.make_node("Cast", [names[index]], [f"{names[index]}_f"], to=TensorProto.FLOAT))
                names[index] += "_f"
        nodes.append(helper.make_node(layer.op, names, [f"y{number}"], domain=layer.domain, **layer.attributes))
        outputs.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid("com.microsoft", 1)] if any(layer.domain for layer in layers) else []
    if ir < 4:
        graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in stored)
    return helper.make_model(graph, opset_imports=imports, ir_version=ir)


FOURS = st.integers(1, 12).map(lambda n: 4 * n)
SIZES = st.tuples(FOURS, FOURS, st.integers(1, 3))
GOALS = st.one_of(
    st.fixed_dictionaries({"qem": st.sampled_from([0.5, 2.0, 20.0, 2000.0])}),
    st.fixed_dictionaries({"qem": st.sampled_from([2.0, 100.0]), "scope": st.just("model")}),
    st.fixed_dictionaries({"avg_bits": st.sampled_from([3.0, 5.0, 9.0])}),
    st.fixed_dictionaries({"max_size": st.sampled_from(["40%", "70%", "99%"])}),
)
OPTIONS = st.fixed_dictionaries(
    {
        "bits": st.one_of(st.just(tuple(range(2, 9))), st.sampled_from([(b,) for b in range(2, 9)])),
        "target": st.sampled_from(["ort", "qdq"]),
        "min_ort": st.sampled_from([(1, 20), (1, 22), (1, 25)]),
        "granularity": st.sampled_from(["channel", "tensor", "block:8", "auto"]),
        "fused": st.sampled_from(["auto", "always"]),
        "symmetric": st.booleans(),
        "data_free": st.booleans(),
    }
)


@st.composite
def models(draw: st.DrawFn, only_what_runs: bool) -> ModelProto:
    made = draw(st.lists(st.tuples(st.sampled_from(sorted(LAYERS)), SIZES), min_size=1, max_size=4))
    layers = [LAYERS[key](sizes) for key, sizes in made]
    if only_what_runs:
        layers = [layer for layer in layers if layer.runs] or [LAYERS["", "MatMul"]((8, 8, 1))]
    least = max(layer.since for layer in layers)
    opset = draw(st.sampled_from([o for o in (7, 9, 11, 12, 13, 14, 17, 19, 21) if o >= least]))
    ir = draw(st.sampled_from([3, 8])) if opset < 10 else 10
    return build(layers, draw(st.sampled_from(["float32", "float16"])), opset, ir)


def check(model: ModelProto, options: dict[str, Any], goal: dict[str, Any], verify: bool) -> None:
    chosen = {"min_size": 1, "verify": verify, **options, **goal}
    try:
        result = mq.quantize(model, **chosen)
    except mq.UnchangedError as error:
        assert "nothing to gain" in str(error)
        return
    except mq.OptionError as error:
        assert "below the smallest possible" in str(error)
        return
    assert result.nbytes_after == result.model.ByteSize() < result.nbytes_before == model.ByteSize()
    for name in result.plan.sites if len(result.plan.sites) > 1 else ():
        fewer = {n: scheme for n, scheme in result.plan.sites.items() if n != name}
        without = mq.apply_plan(model, Plan(sites=fewer), **{**options, "verify": False, "allow_unchanged": True})
        assert without.nbytes_after >= result.nbytes_after


def test_every_operator_is_in_the_search() -> None:
    assert set(LAYERS) == set(WEIGHED)


@settings(PROPERTIES, max_examples=15)
@given(models(only_what_runs=False), OPTIONS, GOALS)
def test_no_file_grows(model: ModelProto, options: dict[str, Any], goal: dict[str, Any]) -> None:
    check(model, options, goal, verify=False)


@pytest.mark.slow
@settings(PROPERTIES, max_examples=3000)
@given(models(only_what_runs=False), OPTIONS, GOALS)
def test_no_file_grows_in_a_long_search(model: ModelProto, options: dict[str, Any], goal: dict[str, Any]) -> None:
    check(model, options, goal, verify=False)


@pytest.mark.slow
@settings(PROPERTIES, max_examples=500)
@given(models(only_what_runs=True), OPTIONS, GOALS)
def test_no_file_grows_and_all_are_proved(model: ModelProto, options: dict[str, Any], goal: dict[str, Any]) -> None:
    check(model, options, goal, verify=True)


def transposed_convolution() -> ModelProto:
    return text(
        "g (float[1,8,9,9] x, float[8,6,3,3] w) => (float[1,24,11,11] y) { y = ConvTranspose <group=4> (x, w) }",
        w=weight(8, 6, 3, 3),
    )


def halves_behind_cast() -> ModelProto:
    return text(
        """g (float[1,8,9,9] x, float[3,16] z, float16[16,8,3,3] w, float16[16,40] v)
        => (float[1,16,7,7] y, float[3,40] u) { c = Cast <to=1> (w) y = Conv (x, c) d = Cast <to=1> (v)
        u = MatMul (z, d) }""",
        w=weight(16, 8, 3, 3, dtype=np.float16), v=weight(16, 40, dtype=np.float16),
    )  # fmt: skip


def old_net() -> ModelProto:
    """Opset 7, many small layers that the conversion to a later opset writes anew."""
    lines = [f"[n{i}] h{i + 1} = MatMul (h{i}, w{i}) [r{i}] s{i} = Squeeze <axes=[0]> (h{i + 1})" for i in range(9)]
    declared = ", ".join(f"float[16,16] w{i}" for i in range(9))
    outputs = ", ".join(f"float[16] s{i}" for i in range(9))
    model = text(f"g (float[1,16] h0, {declared}) => ({outputs}) {{ {' '.join(lines)} }}", opset=7, ir=4)
    for i in range(9):
        put(model, f"w{i}", weight(16, 16, seed=i))
    return model


REPORTED = {"ConvTranspose": transposed_convolution, "float16": halves_behind_cast, "opset 7": old_net}


@pytest.mark.parametrize("options", [{}, {"min_ort": (1, 20)}, {"target": "qdq"}, {"bits": [3]}], ids=str)
@pytest.mark.parametrize("name", REPORTED)
def test_the_reported_models_become_smaller_or_are_an_error(name: str, options: dict[str, Any]) -> None:
    model = REPORTED[name]()
    try:
        result = mq.quantize(model, min_size=64, **options)
    except mq.UnchangedError as error:
        assert "nothing to gain" in str(error) and options != {}
    else:
        assert result.nbytes_after < 0.9 * result.nbytes_before


def test_nothing_to_gain_is_an_error_and_the_model_may_be_copied(tmp_path: Path, output: Path, fails: Fails) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(text("g (float[N,4] x, float[4,8] w) => (float[N,8] y) { y = MatMul (x, w) }", w=weight(4, 8)), path)
    line = fails(7, path, output, "--min-size", "1")
    assert "nothing to gain" in line and "--allow-unchanged" in line
    assert main([str(path), str(output), "--min-size", "1", "--allow-unchanged"]) == 0
    assert output.read_bytes() == path.read_bytes()


def test_small_weights_move_to_a_width_that_a_large_one_brings() -> None:
    model = text(
        """g (float[3,256] x, float[3,16] z, float[256,256] w, float[16,24] v) => (float[3,256] y, float[3,24] u)
        { y = MatMul (x, w) u = MatMul (z, v) }""", w=weight(256, 256), v=weight(16, 24),
    )  # fmt: skip
    five, six, eight = (Scheme.parse(f"w{bits}.channel.minmax") for bits in (5, 6, 8))
    chosen = {"w": six, "v": five}
    sizes = FileSizes(model, find(model, 1).sites, FormOptions())
    assert worth_storing(sizes, chosen, {"v": [six, eight]}).schemes == {"w": six, "v": six}
    assert worth_storing(sizes, chosen, {"v": [eight]}).schemes == {"w": six, "v": eight}
    alone = worth_storing(sizes, chosen, {})
    assert alone.schemes == {"w": six}
    assert alone.left_float == {"v": "its function DequantizeLinear5 takes as many bytes as it saves"}
    assert sizes.growth({"w": six, "v": six}) < sizes.growth({"w": six}) < sizes.growth(chosen)


@pytest.mark.parametrize("options", [{}, {"target": "qdq"}, {"fused": "always"}, {"granularity": "block:24"}], ids=str)
@pytest.mark.parametrize("bits", [3, 4, 5, 8])
def test_sizes_are_those_of_the_file(
    options: dict[str, Any], bits: int, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but equal tensors that are stored once, other than tables, to the length of the length of the graph."""
    content = place._content
    tables = "mixquant."
    monkeypatch.setattr(place, "_content", lambda t: content(t) if t.name.startswith(tables) else t.name)
    monkeypatch.setattr(file_sizes, "_LITTLE", np.inf)
    result = mq.quantize(model_path, bits=[bits], data_free=True, verify=False, **options)
    loaded = model_io.load(model_path)
    sizes = FileSizes(loaded.model, find(loaded.model, 1).sites, result.form)
    assert abs(sizes.growth(result.plan.sites) - (result.nbytes_after - result.nbytes_before)) <= 4


def test_a_plan_is_replayed_without_what_is_stored_at_a_loss() -> None:
    plan = Plan(sites={"w": Scheme.parse("w3.channel.minmax")})
    with pytest.raises(mq.UnchangedError, match="nothing to gain"):
        mq.apply_plan(transposed_convolution(), plan)


def keep_all(sizes: FileSizes, chosen: Mapping[str, Scheme], others: object) -> Stored:
    return Stored(schemes=chosen, left_float={})


@pytest.mark.parametrize("external", [False, True])
def test_the_written_file_is_measured_whatever_was_planned(
    external: bool, tmp_path: Path, output: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in.onnx"
    onnx.save(transposed_convolution(), path, save_as_external_data=external, location="in.data", size_threshold=16)
    monkeypatch.setattr(planning, "worth_storing", keep_all)
    line = fails(7, path, output, "--bits", "3", "--min-size", "64")
    assert "nothing to gain" in line and "as much as the float one" in line
    result = mq.quantize(path, bits=[3], min_size=64, allow_unchanged=True)
    assert result.model == onnx.load(path) and not result.plan.sites and "w" in result.plan.skipped


@pytest.mark.parametrize(("small", "kept"), [((16, 24), ["w"]), ((128, 64), ["w", "v"])])
def test_a_weight_that_takes_more_bits_than_planned_is_stored_only_where_that_pays(
    small: tuple[int, int], kept: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A width that no other weight has brings its function."""

    def with_seven(planned: planning.Planned, *given: Any, **more: Any) -> Layers:
        sites = {**planned.plan.sites, "v": Scheme.parse("w7.channel.minmax")}
        return bounds.quantize_plan(planned.with_sites(sites), *given, **more)

    monkeypatch.setattr(pipeline, "quantize_plan", with_seven)
    k, n = small
    model = text(
        f"""g (float[3,256] x, float[3,{k}] z, float[256,256] w, float[{k},{n}] v) => (float[3,256] y, float[3,{n}] u)
        {{ y = MatMul (x, w) u = MatMul (z, v) }}""", w=weight(256, 256), v=weight(k, n),
    )  # fmt: skip
    result = mq.quantize(model, bits=[7, 8], min_size=1, qem=0.1, data_free=True)
    assert list(result.plan.sites) == kept and result.plan.sites["w"].bits == 8
    assert ("its function DequantizeLinear7" in result.plan.skipped.get("v", "")) == ("v" not in kept)


def test_where_more_bits_leave_nothing_to_gain_the_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(planned: planning.Planned) -> planning.Planned:
        return planning.left_float(planned, dict.fromkeys(planned.plan.sites, "no room"))

    def with_five(planned: planning.Planned, *given: Any, **more: Any) -> Layers:
        sites = dict.fromkeys(planned.plan.sites, Scheme.parse("w5.channel.minmax"))
        return bounds.quantize_plan(planned.with_sites(sites), *given, **more)

    monkeypatch.setattr(pipeline, "quantize_plan", with_five)
    monkeypatch.setattr(pipeline, "without_losses", lost)
    with pytest.raises(mq.UnchangedError, match=r"nothing to gain .*no room"):
        mq.quantize(old_net(), bits=[8], min_size=1, data_free=True)


@pytest.mark.parametrize("goal", [{"max_size": "120%"}, {"avg_bits": 3.5}, {"qem": 1e4}, {"min_sqnr": 1.0}], ids=str)
def test_nothing_to_gain_in_every_mode(goal: dict[str, Any]) -> None:
    data: dict[str, Any] = {"data": {"x": weight(64, 8, 9, 9)}, "cost": "energy"} if "min_sqnr" in goal else {}
    batch = transposed_convolution()
    for value in (*batch.graph.input, *batch.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    with pytest.raises(mq.UnchangedError, match="nothing to gain"):
        mq.quantize(batch, bits=[3], min_size=64, **goal, **data)
