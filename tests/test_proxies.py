"""Inputs that stand in for the user's: of the right kind, size and range, the same at every run, and named so."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import Array, text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.data import calibration
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.proxies.build import proxy_data
from mixquant_onnx.data.proxies.roles import roles_of
from mixquant_onnx.data.proxies.signals import frames, tokens, wave
from mixquant_onnx.runtime.session import Session

ROOT = Path(__file__).resolve().parent.parent
FOLDER = files("mixquant_onnx.data") / "pictures"


def proxies(model: ModelProto) -> Data:
    found = proxy_data(model, Session(model))
    assert found is not None and found.origin == "proxy"
    return found


def convolution(shape: str, output: str, **weights: Array) -> ModelProto:
    return text(f"g (float[{shape}] x, float[8,3,3,3] w) => (float[{output}] y) {{ y = Conv (x, w) }}",
                w=weights.get("w", weight(8, 3, 3, 3)))  # fmt: skip


def line_reader() -> ModelProto:
    """As a text recogniser: one picture of a line of free width, and classes for each column of it."""
    return text("g (float[1,1,32,width] x, float[8,1,32,3] w) => (float[1,8,1,frames] y) { y = Conv (x, w) }",
                w=weight(8, 1, 32, 3))  # fmt: skip


def embedder(vocabulary: int) -> ModelProto:
    return text("g (int64[N,T] ids, int64[N,T] attention_mask, float[vocabulary,16] table) => (float[N,T,16] y) "
                "{ e = Gather (table, ids) k = Constant <value_ints = [2]> () m = Cast <to=1> (attention_mask) "
                "b = Unsqueeze (m, k) y = Mul (e, b) }", table=weight(vocabulary, 16))  # fmt: skip


def recurrent() -> ModelProto:
    return text("g (float[N,samples] audio, float[N,4] state, float[1,4] u) => (float[N,4] y, float[N,4] stateN) "
                "{ r = ReduceMean <axes=[1], keepdims=1> (audio) d = MatMul (r, u) stateN = Add (d, state) "
                "y = Tanh (stateN) }", u=weight(1, 4))  # fmt: skip


def test_the_package_ships_small_photographs_of_known_licence() -> None:
    entries = json.loads((FOLDER / "manifest.json").read_text(encoding="utf8"))
    shipped = {f.name for f in FOLDER.iterdir()}
    assert shipped == {e["file"] for e in entries} | {"manifest.json"} and len(entries) >= 24
    assert all(e["licence"] in ("CC0", "public domain") and e["package"] and e["source"] for e in entries)
    assert sum(len(f.read_bytes()) for f in FOLDER.iterdir()) < 300_000


@pytest.mark.parametrize(
    ("shape", "output", "expected"),
    [("N,3,H,W", "N,8,h,w", (4, 3, 224, 224)), ("N,3,96,64", "N,8,94,62", (4, 3, 96, 64)),
     ("1,3,40,40", "1,8,38,38", (1, 3, 40, 40))],
)  # fmt: skip
def test_pictures_have_the_size_that_the_model_takes(shape: str, output: str, expected: tuple[int, ...]) -> None:
    found = proxies(convolution(shape, output))
    assert {feed["x"].shape for feed in found.feeds} == {expected} and found.rows >= 36
    assert found.name == "proxy photographs"
    spread = np.array([feed["x"].std() for feed in found.feeds])
    assert (spread > 0.05).all() and len({feed["x"].tobytes() for feed in found.feeds}) == len(found.feeds)


def test_channels_may_be_last() -> None:
    model = text("g (float[N,32,48,3] x, float[8,3,3,3] w) => (float[N,8,30,46] y) "
                 "{ t = Transpose <perm=[0,3,1,2]> (x) y = Conv (t, w) }", w=weight(8, 3, 3, 3))  # fmt: skip
    assert proxies(model).feeds[0]["x"].shape == (4, 32, 48, 3)


def test_a_line_of_free_width_is_dozens_wide_and_not_taken_for_a_batch() -> None:
    shapes = {feed["x"].shape for feed in proxies(line_reader()).feeds}
    assert all(shape[:3] == (1, 1, 32) and 64 <= shape[3] <= 1024 for shape in shapes)


def test_ids_are_below_the_vocabulary_and_follow_zipf() -> None:
    found = proxies(embedder(5000))
    ids = np.concatenate([feed["ids"].ravel() for feed in found.feeds])
    assert found.name == "proxy texts" and ids.min() >= 0 and ids.max() < 5000
    counts = np.sort(np.bincount(ids))[::-1]
    assert counts[0] > 5 * counts[20] > 0
    assert all((feed["attention_mask"] == 1).all() for feed in found.feeds)


def test_ids_of_bert_begin_and_end_as_its_texts_do() -> None:
    ids = tokens(np.random.default_rng(0), (3, 16), 30522)
    assert (ids[:, 0] == 101).all() and (ids[:, -1] == 102).all()


def test_bytes_are_of_text() -> None:
    found = proxies(embedder(256)).feeds[0]["ids"]
    assert found.shape[0] == 4 and np.isin(found, [9, 10, *range(32, 127)]).all()


def test_an_id_beyond_bytes_fills_up_every_other_file() -> None:
    found = proxies(embedder(257)).feeds[0]["ids"]
    filled = (found == 256).any(axis=1)
    assert filled.tolist() == [False, True, False, True] and (found[filled, -1] == 256).all()


def test_a_state_is_carried_on_from_zero() -> None:
    model = recurrent()
    found = proxies(model)
    assert found.name == "proxy sounds" and not found.feeds[0]["state"].any()
    session = Session(model)
    assert np.array_equal(found.feeds[1]["state"], session.run(found.feeds[0])[1])
    assert found.feeds[1]["state"].any()


def test_waves_are_sounds_in_range() -> None:
    made = [wave(np.random.default_rng(k), k, 4000) for k in range(8)]
    assert all(np.isfinite(w).all() and np.abs(w).max() <= 1 for w in made)
    spectrum = np.abs(np.fft.rfft(made[0])) ** 2
    low = spectrum[: len(spectrum) // 2].sum() / spectrum.sum()
    assert low > 0.9  # speech has little above 4 kHz


RANGES = {
    "0..1": lambda x: x,
    "0..255": lambda x: x * 255,
    "-1..1": lambda x: x * 2 - 1,
}


@pytest.mark.parametrize("wanted", RANGES)
def test_statistics_of_a_normalization_tell_the_range(wanted: str) -> None:
    pixels = np.stack([feed["x"] for feed in proxies(convolution("1,3,64,64", "1,8,62,62")).feeds])[:, 0]
    mean, deviation = pixels.mean(), pixels.std()  # in whatever range: brought to that of pictures, about 0.45 +- 0.26
    given = RANGES[wanted]((pixels - mean) / deviation * 0.26 + 0.45).astype(np.float32)
    w = weight(8, 3, 3, 3)
    seen = Session(convolution("N,3,64,64", "N,8,62,62", w=w)).run({"x": given})[0]
    model = text("g (float[N,3,64,64] x, float[8,3,3,3] w, float[8] s, float[8] b, float[8] m, float[8] v) => "
                 "(float[N,8,62,62] y) { c = Conv (x, w) y = BatchNormalization (c, s, b, m, v) }",
                 w=w, s=np.ones(8, np.float32), b=np.zeros(8, np.float32),
                 m=seen.mean((0, 2, 3)), v=seen.var((0, 2, 3)))  # fmt: skip
    made = np.concatenate([feed["x"] for feed in proxies(model).feeds])
    top, bottom = {"0..1": (1, 0), "0..255": (255, 0), "-1..1": (1, -1)}[wanted]
    assert made.min() >= bottom - 1e-6 and bottom + 0.8 * (top - bottom) < made.max() <= top + 1e-4
    assert made.min() < bottom + 0.2 * (top - bottom)


def test_constants_that_scale_pictures_tell_the_range() -> None:
    model = text("g (float[N,3,32,32] x, float[8,3,3,3] w) => (float[N,8,30,30] y) "
                 "{ s = Constant <value_float = 255.0> () d = Div (x, s) y = Conv (d, w) }",
                 w=weight(8, 3, 3, 3))  # fmt: skip
    assert np.concatenate([f["x"] for f in proxies(model).feeds]).max() > 200


def test_the_same_rows_at_every_run() -> None:
    one, two = proxies(line_reader()), proxies(line_reader())
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(one.feeds, two.feeds, strict=True))


def test_columns_of_a_product_are_no_waves() -> None:
    """A free second dimension is time where the first is the batch, and not where it has a size of its own."""
    columns = text("g (float[64,N] x, float[32,64] w) => (float[32,N] y) { y = MatMul (w, x) }", w=weight(32, 64))
    assert [role.kind for role in roles_of(columns)] == ["values"]
    for first in ("1", "B"):
        sums = text(f"g (float[{first},N] x) => (float[{first}] y) {{ y = ReduceSum <keepdims=0> (x) }}")
        assert [role.kind for role in roles_of(sums)] == ["wave"]


def test_what_is_not_known_gets_no_proxies() -> None:
    features = text("g (float[N,24] x, float[24,8] w) => (float[N,8] y) { y = MatMul (x, w) }", w=weight(24, 8))
    assert [role.kind for role in roles_of(features)] == ["values"]
    assert proxy_data(features, Session(features)) is None


@pytest.fixture(scope="module")
def small() -> ModelProto:
    return text("g (float[N,3,16,16] x, float[16,3,3,3] w, float[16,16,3,3] u) => (float[N,16,12,12] y) "
                "{ c = Conv (x, w) r = Relu (c) y = Conv (r, u) }",
                w=weight(16, 3, 3, 3), u=weight(16, 16, 3, 3))  # fmt: skip


@pytest.mark.parametrize(
    ("options", "origin"),
    [({}, "proxy"), ({"data_free": True}, "noise"),
     ({"data": {"x": weight(32, 3, 16, 16)}}, "user"),
     ({"data": {"x": weight(32, 3, 16, 16)}, "data_free": True}, "user")],
    ids=str,
)  # fmt: skip
def test_the_users_data_wins_and_data_free_turns_proxies_off(
    small: ModelProto, options: dict[str, Any], origin: str
) -> None:
    proof = mq.quantize(small, bits=[4], **options).verification
    assert proof is not None and proof.origin == origin and not proof.in_sample


def test_a_promise_is_not_judged_by_proxies(small: ModelProto) -> None:
    with pytest.raises(mq.DataError, match="an accuracy target needs --data"):
        mq.quantize(small, min_sqnr=20)


def test_a_method_that_needs_inputs_says_so_where_there_are_none(small: ModelProto) -> None:
    features = text("g (float[N,64] x, float[64,48] w) => (float[N,48] y) { y = MatMul (x, w) }", w=weight(64, 48))
    with pytest.raises(mq.DataError, match="--method gptq needs --data"):
        mq.quantize(features, method="gptq")
    with pytest.raises(mq.OptionError, match="leave --data-free out"):
        mq.quantize(small, method="gptq", data_free=True)


def test_proxies_bring_outputs_nearer_to_float_on_real_rows() -> None:
    model = onnx.load(ROOT / "models" / "digits_cnn" / "model.onnx")
    with np.load(ROOT / "models" / "digits_cnn" / "eval.npz") as archive:
        rows = {"input": archive["input"][:256]}
    reference = Session(model).run(rows)[0]
    noise = {}
    for free in (False, True):
        made = mq.quantize(model, bits=[4], verify=False, data_free=free, method="auto" if not free else "mse").model
        noise[free] = float(np.sum((Session(made).run(rows)[0] - reference) ** 2))
    assert noise[False] < noise[True] / 2


def test_wide_layers_are_rounded_without_second_moments_and_the_run_says_so(
    small: ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`w` has 27 inputs, `u` 144."""
    monkeypatch.setattr(calibration, "WIDEST_OF_PROXIES", 100)
    notes = mq.quantize(small, bits=[4]).notes
    assert any("1 wide layer is" in note and "'u'" in note for note in notes)
    own = mq.quantize(small, bits=[4], data={"x": weight(64, 3, 16, 16)}).notes
    assert not any("wide" in note for note in own)


@pytest.mark.parametrize(
    ("options", "compared"), [({}, True), ({"cost": "energy"}, False), ({"data_free": True}, False)]
)
def test_a_budget_is_spent_by_energy_or_one_width_whichever_proxies_prefer(
    small: ModelProto, options: dict[str, Any], compared: bool
) -> None:
    plain = mq.inspect(small, bits=[5], data_free=True).table
    limit = 8 * sum(c.nbytes for e in plain.values() for c in e.candidates) / sum(e.elements for e in plain.values())
    planned = mq.inspect(small, avg_bits=limit + 0.01, **options)
    notes = [note for note in planned.notes if "does best on the rows that plans are compared on" in note]
    assert bool(notes) == compared
    assert not compared or ("'weight-error'" in notes[0]) != ("'one width'" in notes[0])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [("imgsz", "[96, 128]", (96, 128)), ("input_size", "80", (80, 80)), ("imgsz", "[9999, 9999]", (224, 224)),
     ("names", "{0: 'person'}", (224, 224))],
)  # fmt: skip
def test_metadata_tells_the_size_of_pictures(key: str, value: str, expected: tuple[int, int]) -> None:
    model = convolution("N,3,H,W", "N,8,h,w")
    model.metadata_props.add(key=key, value=value)
    assert proxies(model).feeds[0]["x"].shape[2:] == expected


def test_metadata_tells_the_length_of_texts() -> None:
    model = embedder(5000)
    model.metadata_props.add(key="max_seq_length", value="24")
    assert proxies(model).feeds[0]["ids"].shape[1] == 24


@pytest.mark.parametrize("shape", [(2, 50, 80), (2, 80, 50), (2, 1, 50, 40)])
def test_frames_of_usual_bands_are_mel_spectra(shape: tuple[int, ...]) -> None:
    """Neighbouring bands, and neighbouring frames, are much alike; those of noise are not."""
    made = frames(np.random.default_rng(0), shape)
    assert made.shape == shape and np.isfinite(made).all() and abs(float(made.mean())) < 0.1
    bands = -1 if shape[-1] in (40, 80) else -2
    for axis in (bands, -3 - bands):
        ahead, behind = (np.take(made, range(start, shape[axis] - 1 + start), axis) for start in (1, 0))
        assert np.corrcoef(ahead.ravel(), behind.ravel())[0, 1] > 0.8


def test_a_free_length_is_not_taken_for_a_number_of_bands() -> None:
    """Neighbours along it would be alike as bands are; here they are as consecutive frames."""
    free, bands = (frames(np.random.default_rng(1), (1, 64, 200), fixed) for fixed in ((False, True), (True, True)))
    assert free.shape == bands.shape and np.abs(free - bands).max() > 1


def flattened(side: int) -> ModelProto:
    """A classifier of pictures of `side` whose exporter left height and width free."""
    features = 8 * (side // 2) ** 2
    return text(f"""g (float[n,3,h,w] x, float[8,3,2,2] c, int64[2] shape, float[{features},4] w2) => (float[n,4] y)
        {{ a = Conv <strides=[2, 2]> (x, c) b = Reshape (a, shape) y = MatMul (b, w2) }}""",
        c=weight(8, 3, 2, 2), shape=np.array([-1, features]), w2=weight(features, 4))  # fmt: skip


@pytest.mark.parametrize("side", [28, 96, 224])
def test_a_reshape_tells_the_size_of_pictures(side: int) -> None:
    """One of 224 x 224 runs on [-1, 1568] too, as 64 of 28 x 28."""
    assert proxies(flattened(side)).feeds[0]["x"].shape[1:] == (3, side, side)


def test_a_declared_inner_value_tells_the_size_of_pictures() -> None:
    model = convolution("n,3,h,w", "n,8,h2,w2")
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 126
    model.graph.output[0].type.tensor_type.shape.dim[3].dim_value = 126
    assert proxies(model).feeds[0]["x"].shape[1:] == (3, 128, 128)


def test_a_table_of_positions_tells_the_length_of_texts() -> None:
    model = text(
        """g (int64[n,t] ids, float[50,8] table, float[1,77,8] positions, float[8,8] w) => (float[n,t,8] y)
        { a = Gather (table, ids) b = Add (a, positions) y = MatMul (b, w) }""",
        table=weight(50, 8), positions=weight(1, 77, 8), w=weight(8, 8),
    )  # fmt: skip
    assert proxies(model).feeds[0]["ids"].shape[1] == 77


def test_sizes_that_nothing_agrees_with_are_those_that_run() -> None:
    model = convolution("n,3,h,w", "n,8,h2,w2")
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9
    assert proxies(model).feeds[0]["x"].shape[1:] == (3, 224, 224)
