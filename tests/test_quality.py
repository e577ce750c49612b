"""What is compared, in which figures, and in which words: parts of outputs, classes, labels, maps, shapes, NaN."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
from cases import Array, Fails, classifier, put, text, weight
from onnx import ModelProto, TensorProto, helper

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.data.noise import Data
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.noise import sqnr_db
from mixquant_onnx.numerics.outputs import arrays_of
from mixquant_onnx.numerics.parts import parts_of
from mixquant_onnx.report.inputs import Run
from mixquant_onnx.report.sections.verification import VerificationData, title
from mixquant_onnx.report.summary import summarize
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.verification import quality as qualities
from mixquant_onnx.verification.classes import class_axes
from mixquant_onnx.verification.divergence import first_divergence
from mixquant_onnx.verification.equivalence import check_equivalence
from mixquant_onnx.verification.labels import accuracy
from mixquant_onnx.verification.quality import Quality
from mixquant_onnx.verification.statistics import share_of, wilson
from mixquant_onnx.verification.verify import verify
from mixquant_onnx.verification.warnings import Origin, warnings_of


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def data_file(folder: Path, values: Array, **more: Array) -> Path:
    path = folder / "data.npz"
    np.savez(path, allow_pickle=False, x=values, **more)
    return path


def measured(reference: Array, other: Array, axis: int | None = None, name: str = "y") -> Quality:
    axes = {} if axis is None else {name: axis}
    return qualities.quality_of("deployed", [[reference]], [[other]], [name], axes)


def sklearn_like() -> ModelProto:
    """Logistic regression behind a layer, as scikit-learn is exported: labels, and a list of maps."""
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["a"]),
        helper.make_node("Tanh", ["a"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
        helper.make_node("ArgMax", ["p"], ["label"], axis=1, keepdims=0),
        helper.make_node("ZipMap", ["p"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=list(range(10))),
    ]
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["N"])
    number = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    maps = helper.make_value_info(
        "maps", helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, number))
    )
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])], [label, maps],
        [onnx.numpy_helper.from_array(weight(64, 64), "v"), onnx.numpy_helper.from_array(weight(64, 10), "w")],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def detector() -> ModelProto:
    """Boxes up to 320 beside scores in 0..1: [N, 12, 50]."""
    return text(
        """g (float[N,64] x, float[64,200] b, float[64,400] s, float c, int64[3] k, int64[3] l, float d)
        => (float[N,12,50] y) {
        [boxes] e = MatMul (x, b) f = Sigmoid (e) h = Mul (f, c) i = Reshape (h, k)
        [scores] m = MatMul (x, s) n = Sub (m, d) o = Sigmoid (n) p = Reshape (o, l)
        y = Concat <axis=1> (i, p) }""",
        b=weight(64, 200), s=weight(64, 400) * 2, c=np.array(320, np.float32), d=np.array(2, np.float32),
        k=np.array([0, 4, 50]), l=np.array([0, 8, 50]),
    )  # fmt: skip


def with_nms() -> ModelProto:
    """The number of rows is the number of detections."""
    return text(
        """g (float[1,64] x, float[64,400] b, float[64,100] s, int64[3] k, int64[3] l, int64 most, float iou,
        float least) => (int64[M,3] selected, float[M,4] found) {
        e = MatMul (x, b) f = Sigmoid (e) boxes = Reshape (f, k)
        m = MatMul (x, s) n = Sigmoid (m) scores = Reshape (n, l)
        selected = NonMaxSuppression (boxes, scores, most, iou, least)
        [one] t = Constant <value = int64[1] {2}> () col = Gather <axis=1> (selected, t) flat = Squeeze (col)
        plain = Squeeze (boxes) found = Gather <axis=0> (plain, flat) }""",
        b=weight(64, 400), s=weight(64, 100), k=np.array([1, 100, 4]), l=np.array([1, 1, 100]),
        most=np.array(50), iou=np.array(0.5, np.float32), least=np.array(0.5, np.float32),
    )  # fmt: skip


# --- parts -----------------------------------------------------------------------------------------------------------


def test_box_coordinates_and_scores_are_two_parts_and_the_worst_is_told() -> None:
    y = np.concatenate([320 * np.abs(normal(2, 4, 500)), 1 / (1 + np.exp(3 - normal(2, 8, 500)))], 1)
    other = y + np.concatenate([0.1 * normal(2, 4, 500, seed=1), 0.02 * normal(2, 8, 500, seed=2)], 1)
    found = measured(y, other)
    boxes, scores = found.outputs[0].parts
    assert (boxes.slices, scores.slices) == ("[:, 0-3]", "[:, 4-11]")
    assert boxes.sqnr_db == pytest.approx(sqnr_db(y[:, :4], other[:, :4]))
    assert scores.sqnr_db == pytest.approx(sqnr_db(y[:, 4:], other[:, 4:])) == found.sqnr_db
    assert sqnr_db(y, other) > 60 > 30 > scores.sqnr_db
    shares = [10 ** (-part.sqnr_db / 10) for part in (boxes, scores)]
    assert relative_noise([[y]], [[other]]) == pytest.approx(np.mean(shares))
    assert found.mean_sqnr_db == pytest.approx(-10 * np.log10(np.mean(shares)))


def test_a_detector_is_told_and_promised_by_its_scores(tmp_path: Path) -> None:
    data = data_file(tmp_path, normal(64, 64))
    result = mq.quantize(detector(), bits=[4], data=data)
    assert result.verification is not None and result.verification.deployed is not None
    boxes, scores = result.verification.deployed.outputs[0].parts
    assert scores.sqnr_db < boxes.sqnr_db and result.verification.deployed.sqnr_db == scores.sqnr_db
    kept = mq.quantize(detector(), data=data, min_sqnr=25, method="mse", cost="energy")
    assert kept.verification is not None and kept.verification.deployed is not None
    assert min(part.sqnr_db for part in kept.verification.deployed.outputs[0].parts) >= 25


@pytest.mark.parametrize(
    "y",
    [
        normal(64, 10),
        normal(64, 10) * np.linspace(0.3, 3, 10, dtype=np.float32),
        np.exp(3 * normal(64, 50)) / np.exp(3 * normal(64, 50)).sum(1, keepdims=True),
        normal(4, 16, 384) * np.exp(0.5 * normal(384, seed=3)),
        np.abs(normal(8, 1, 32, 32)) < 0.05,
        np.concatenate([normal(8, 62, 20), 100 * normal(8, 1, 20), 0 * normal(8, 1, 20)], 1),
    ],
    ids=["logits", "logits of different size", "probabilities", "hidden states", "a map", "an outlier, a dead channel"],
)
def test_outputs_of_one_scale_stay_whole(y: Array) -> None:
    (part,) = parts_of([np.asarray(y, np.float32)])
    assert part.axis is None


def test_a_part_that_is_background_alone_is_not_told_apart() -> None:
    y = np.concatenate([320 * np.abs(normal(2, 4, 50)), 0.01 * np.abs(normal(2, 8, 50))], 1).clip(0)
    assert len(parts_of([y])) == 1
    y[0, 5, 7] = 0.6
    assert len(parts_of([y])) == 2


def test_classes_that_do_not_occur_are_scores_like_the_others() -> None:
    y = np.concatenate([320 * np.abs(normal(2, 4, 50)), np.full((2, 8, 50), 0.9, np.float32)], 1)
    y[:, 5:9] = 0.001
    boxes, scores = parts_of([y])
    assert (boxes.words, scores.words) == ("[:, 0-3]", "[:, 4-11]")


def test_a_scale_is_not_known_from_a_few_values() -> None:
    y = normal(40, 4) * np.array([100, 100, 1, 1], np.float32)
    assert [part.words for part in parts_of([y])] == ["[:, 0-1]", "[:, 2-3]"]
    assert [part.words for part in parts_of([y[:20], y[20:]])] == ["[:, 0-1]", "[:, 2-3]"]
    assert len(parts_of([y[:15]])) == 1


def test_parts_are_those_of_the_float_model_whatever_the_other_gives() -> None:
    y = np.concatenate([100 * normal(20, 2, 50), normal(20, 6, 50)], 1)
    found = measured(y, np.zeros_like(y))
    assert [part.slices for part in found.outputs[0].parts] == ["[:, 0-1]", "[:, 2-7]"]
    assert [part.sqnr_db for part in found.outputs[0].parts] == [pytest.approx(0), pytest.approx(0)]


# --- infinity and NaN ------------------------------------------------------------------------------------------------


def test_equal_infinities_cancel_and_others_do_not() -> None:
    y = normal(4, 10)
    y[:, 3] = -np.inf
    other = y + 0.01 * normal(4, 10, seed=1)
    keep = np.arange(10) != 3
    assert measured(y, other).sqnr_db == pytest.approx(sqnr_db(y[:, keep], other[:, keep]))
    other[0, 3] = -100
    assert measured(y, other).sqnr_db == -math.inf


def test_minus_infinity_in_logits_is_compared() -> None:
    model = text("g (float[N,64] x, float[64,64] v, float[64,10] w, float[10] m) => (float[N,10] logits) "
                 "{ h = MatMul (x, v) z = MatMul (h, w) logits = Add (z, m) }",
                 v=weight(64, 64), w=weight(64, 10), m=np.array([0] * 9 + [-np.inf], np.float32))  # fmt: skip
    found = mq.quantize(model, bits=[8]).verification
    assert found is not None and found.deployed is not None and found.samples == 4
    assert 30 < (found.deployed.sqnr_db or 0) < 80


def roots() -> tuple[ModelProto, Array]:
    """A model whose output is NaN below zero, and rows for which float's is not."""
    common = weight(64, 1) + 0.1 * weight(64, 32)
    model = text("g (float[N,64] x, float[64,32] w) => (float[N,32] y) { a = MatMul (x, w) y = Sqrt (a) }",
                 w=common)  # fmt: skip
    rows = normal(400, 64)
    return model, rows[(rows @ common > 0).all(1)]


def test_nan_where_float_has_none_is_told_in_the_table_and_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, rows = roots()
    onnx.save(model, tmp_path / "m.onnx")
    data = data_file(tmp_path, rows)
    arguments = [str(tmp_path / "m.onnx"), str(tmp_path / "o.onnx"), "-v", "--bits", "2", "--rounding", "nearest"]
    assert main([*arguments, "--data", str(data), "--json", str(tmp_path / "s.json")]) == 0
    proof = json.loads((tmp_path / "s.json").read_text())["verification"]
    assert proof["quality"][1]["sqnr_db"] == "-inf" and proof["quality"][1]["outputs"][0]["nan"] > 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "deployed NaN" in printed and "warning: output 'y' has NaN where float has none" in printed


def test_no_promise_is_kept_by_nan(tmp_path: Path, output: Path, fails: Fails) -> None:
    model, rows = roots()
    onnx.save(model, tmp_path / "m.onnx")
    quick = ("--data", data_file(tmp_path, rows), "--bits", "2", "--method", "mse")
    line = fails(9, tmp_path / "m.onnx", output, "--min-sqnr", "-300", "--cost", "energy", *quick)
    assert "NaN in output 'y'" in line


# --- decisions -------------------------------------------------------------------------------------------------------


def test_labels_and_maps_are_compared(tmp_path: Path) -> None:
    data = data_file(tmp_path, normal(200, 64))
    result = mq.quantize(sklearn_like(), bits=[2], eval_data=data)
    assert result.verification is not None and result.verification.deployed is not None
    label, maps = result.verification.deployed.outputs
    wanted, got = (Session(m).run({"x": normal(200, 64)}) for m in (sklearn_like(), result.model))
    assert label.decisions is not None and label.sqnr_db is None
    assert label.decisions.value == np.mean(wanted[0] == got[0]) < 1
    p, q = (np.array([list(row.values()) for row in side[1]]) for side in (wanted, got))
    assert maps.sqnr_db == pytest.approx(sqnr_db(p, q), abs=0.01)
    assert result.verification.deployed.sqnr_db == maps.sqnr_db
    assert maps.decisions is not None and maps.decisions.value == np.mean(p.argmax(1) == q.argmax(1))


def test_a_promise_on_a_model_with_labels_and_maps_is_judged(tmp_path: Path, fails: Fails) -> None:
    data = data_file(tmp_path, normal(200, 64))
    onnx.save(sklearn_like(), tmp_path / "m.onnx")
    quick = ("--data", data, "--method", "mse", "--cost", "energy")
    assert " dB" in fails(9, tmp_path / "m.onnx", tmp_path / "o.onnx", "--min-sqnr", "200", *quick)


def test_a_map_alone_and_a_sequence_are_read() -> None:
    found = arrays_of([{"b": 0.25, "a": 0.75}, ["x", "y"], [np.zeros(2), np.ones(3)], None], ["m", "t", "s", "o"])
    assert found["m"].tolist() == [[0.75, 0.25]] and found["t"].tolist() == ["x", "y"]
    assert found["s[1]"].shape == (3,) and list(found) == ["m", "t", "s[0]", "s[1]"]


def test_nan_is_no_decision() -> None:
    y = normal(40, 10)
    broken = y.copy()
    broken[:3, y.argmax(1)[:3]] = np.nan
    agreement = measured(y, broken, axis=1).agreement
    assert agreement is not None and (agreement.hits, agreement.count) == (37, 40)


def test_rows_of_an_output_that_are_no_rows_of_data_are_counted_by_feed() -> None:
    found = np.arange(150).reshape(50, 3)
    for rows, counted in ((1, 1), (50, 50)):
        quality = qualities.quality_of("deployed", [[found]], [[found]], ["y"], {}, rows=[rows])
        assert quality.agreement is not None and (quality.agreement.rows, quality.agreement.count) == (counted, 150)


def test_detections_are_no_classes() -> None:
    session = Session(with_nms())
    assert class_axes(with_nms(), [session.run({"x": normal(1, 64)})], session.outputs) == {}


def labels_alone() -> ModelProto:
    return text("g (float[N,64] x, float[64,64] v, float[64,10] w) => (int64[N] label) "
                "{ h = MatMul (x, v) z = MatMul (h, w) label = ArgMax <axis=1, keepdims=0> (z) }",
                v=weight(64, 64), w=weight(64, 10))  # fmt: skip


def test_what_cannot_be_compared_in_db_is_no_promise_kept(tmp_path: Path, output: Path, fails: Fails) -> None:
    data = data_file(tmp_path, normal(80, 64))
    onnx.save(labels_alone(), tmp_path / "m.onnx")
    quick = ("--data", data, "--method", "mse", "--cost", "energy")
    assert "use --min-agreement" in fails(6, tmp_path / "m.onnx", output, "--min-sqnr", "30", *quick)
    assert main(list(map(str, [tmp_path / "m.onnx", output, "--min-agreement", "80%", *quick]))) == 0
    wanted, got = (Session(path).run({"x": normal(80, 64)})[0] for path in (tmp_path / "m.onnx", output))
    assert np.mean(wanted == got) > 0.75


def test_where_an_output_has_no_classes_min_agreement_says_so_before_the_work(
    tmp_path: Path, output: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = text("g (float[N,6,64] x, float[64,64] v, float[64] s) => (float[N,6,64] last) "
                 "{ h = MatMul (x, v) last = LayerNormalization (h, s) }", v=weight(64, 64), s=weight(64))  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    data = data_file(tmp_path, normal(40, 6, 64))
    monkeypatch.setattr("mixquant_onnx.run.price_all", lambda *_: pytest.fail("work began"))
    line = fails(6, tmp_path / "m.onnx", output, "--min-agreement", "99%", "--data", data)
    assert "'last' [40, 6, 64]" in line or "'last'" in line
    assert "use --min-sqnr" in line


CLASSES: dict[str, tuple[str, dict[str, Array], tuple[int, ...], int | None]] = {
    "[rows, classes]": ("g (float[N,8] x, float[8,5] w) => (float[N,5] y) { y = MatMul (x, w) }",
                        {"w": weight(8, 5)}, (3, 8), 1),
    "embeddings by name": ("g (float[N,8] x, float[8,5] w) => (float[N,5] embedding) { embedding = MatMul (x, w) }",
                           {"w": weight(8, 5)}, (3, 8), None),
    "normalized rows": ("g (float[N,8] x, float[8,5] w) => (float[N,5] y) "
                        "{ a = MatMul (x, w) y = LpNormalization <axis=1> (a) }", {"w": weight(8, 5)}, (3, 8), None),
    "frames x classes, Softmax": ("g (float[N,4,8] x, float[8,5] w) => (float[N,4,5] y) "
                                  "{ a = MatMul (x, w) y = Softmax <axis=-1> (a) }", {"w": weight(8, 5)}, (3, 4, 8), 2),
    "classes x frames, LogSoftmax": ("g (float[N,5,4] x, float[5,5] w) => (float[N,5,4] y) "
                                     "{ a = MatMul (w, x) y = LogSoftmax <axis=1> (a) }", {"w": weight(5, 5)},
                                     (3, 5, 4), 1),
    "frames x classes, a wide head": ("g (float[N,4,8] x, float[8,50] w, float[50] b) => (float[N,4,50] y) "
                                      "{ a = MatMul (x, w) y = Add (a, b) }",
                                      {"w": weight(8, 50), "b": weight(50)}, (3, 4, 8), 2),
    "frames x classes by name": ("g (float[N,4,8] x, float[8,5] w) => (float[N,4,5] logits) "
                                 "{ logits = MatMul (x, w) }", {"w": weight(8, 5)}, (3, 4, 8), 2),
    "hidden states": ("g (float[N,4,8] x, float[8,8] w) => (float[N,4,8] y) { y = MatMul (x, w) }",
                      {"w": weight(8, 8)}, (3, 4, 8), None),
    "a map of classes": ("g (float[N,3,6,6] x, float[7,3,1,1] w, float[4] s) => (float[N,7,12,12] y) "
                         "{ a = Conv (x, w) y = Resize <mode=\"linear\"> (a, , s) }",
                         {"w": weight(7, 3, 1, 1), "s": np.array([1, 1, 2, 2], np.float32)}, (2, 3, 6, 6), 1),
    "a map, Softmax": ("g (float[N,3,6,6] x, float[2,3,3,3] w) => (float[N,2,4,4] y) "
                       "{ a = Conv (x, w) y = Softmax <axis=1> (a) }", {"w": weight(2, 3, 3, 3)}, (2, 3, 6, 6), 1),
    "a picture": ("g (float[N,3,6,6] x, float[3,3,1,1] w, float[4] s) => (float[N,3,12,12] y) "
                  "{ a = Conv (x, w) y = Resize <mode=\"linear\"> (a, , s) }",
                  {"w": weight(3, 3, 1, 1), "s": np.array([1, 1, 2, 2], np.float32)}, (2, 3, 6, 6), None),
    "features": ("g (float[N,3,6,6] x, float[16,3,3,3] w) => (float[N,16,4,4] y) { a = Conv (x, w) y = Relu (a) }",
                 {"w": weight(16, 3, 3, 3)}, (2, 3, 6, 6), None),
    "attention": ("g (float[N,2,6,6] x, float[6,6] w) => (float[N,2,6,6] y) "
                  "{ a = MatMul (x, w) y = Softmax <axis=-1> (a) }", {"w": weight(6, 6)}, (2, 2, 6, 6), None),
}  # fmt: skip


@pytest.mark.parametrize("case", CLASSES)
def test_the_axis_of_classes_is_found(case: str) -> None:
    graph, weights, shape, axis = CLASSES[case]
    model = text(graph)
    for key, value in weights.items():
        put(model, key, value)
    session = Session(model)
    outputs = [session.run({"x": normal(*shape)})]
    assert class_axes(model, outputs, session.outputs) == ({} if axis is None else {session.outputs[0]: axis})


@pytest.mark.usefixtures("stored_at_a_loss")
def test_frames_that_change_are_counted_and_promised(tmp_path: Path) -> None:
    graph, _, _, _ = CLASSES["frames x classes, Softmax"]
    model = text(graph.replace("8", "32").replace("5", "12"), w=weight(32, 12))
    data = data_file(tmp_path, normal(80, 4, 32))
    result = mq.quantize(model, bits=[3], eval_data=data, min_size=1)
    wanted, got = (Session(m).run({"x": normal(80, 4, 32)})[0] for m in (model, result.model))
    assert result.verification is not None and result.verification.deployed is not None
    agreement = result.verification.deployed.agreement
    assert agreement is not None and (agreement.rows, agreement.count) == (80, 320)
    assert agreement.value == np.mean(wanted.argmax(-1) == got.argmax(-1)) < 1


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_a_detector_whose_number_of_rows_changes_is_quantized_and_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(with_nms(), tmp_path / "m.onnx")
    arguments = [str(tmp_path / "m.onnx"), str(tmp_path / "o.onnx"), "-v", "--bits", "2"]
    assert main([*arguments, "--json", str(tmp_path / "s.json")]) == 0
    deployed = json.loads((tmp_path / "s.json").read_text())["verification"]["quality"][1]
    assert deployed["sqnr_db"] == "-inf" and deployed["outputs"][1]["changed_shapes"] > 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "deployed shapes differ" in printed and "exact exact" not in printed
    assert printed.count("warning: the shape of 'selected', 'found' differs") == 1


def test_rows_that_differ_in_one_feed_count_as_lost_and_not_as_infinite() -> None:
    a, b = normal(3, 4), normal(5, 4)
    assert relative_noise([[a], [b]], [[a], [b[:4]]]) == pytest.approx(np.sum(b**2) / (np.sum(a**2) + np.sum(b**2)))
    assert relative_noise([[a], [b]], [[a], [b]]) == 0


# --- words -----------------------------------------------------------------------------------------------------------


def test_the_interval_is_wilsons() -> None:
    assert wilson(0.9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert wilson(1.0, 4)[0] == pytest.approx(0.5101, abs=1e-4) and wilson(1.0, 4)[1] == 1
    assert wilson(0.0, 0) == (0, 1)


def test_decisions_of_one_row_are_not_independent() -> None:
    apart, alike = share_of([5, 5, 5, 5] * 10, [10] * 40), share_of([10, 0, 10, 0] * 10, [10] * 40)
    assert apart.value == alike.value == 0.5
    assert alike.high - alike.low > 2 * (apart.high - apart.low) > 0.15
    assert (alike.low, alike.high) == pytest.approx(wilson(0.5, 40), abs=0.01)


def test_from_few_rows_no_share_is_told_but_a_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(classifier(), tmp_path / "m.onnx")
    for rows, told in ((19, False), (20, True)):
        data = data_file(tmp_path, normal(rows, 64))
        arguments = [str(tmp_path / "m.onnx"), str(tmp_path / "o.onnx"), "--bits", "8", "--eval-data", str(data)]
        assert main([*arguments, "--json", str(tmp_path / "s.json")]) == 0
        deployed = json.loads((tmp_path / "s.json").read_text())["verification"]["quality"][1]
        printed = capsys.readouterr().out
        assert (deployed["agreement"]["share"] is not None) == told == ("100.00%" in printed)
        assert (
            deployed["top1_agreement"] == 1
            and deployed["agreement"]["count"] == rows
            and (f"{rows} of {rows}" in printed) == (not told)
        )


def test_noise_tells_nothing_of_accuracy_and_the_title_says_so(
    model: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = output.with_suffix(".json")
    assert main([str(model), str(output), "--json", str(summary)]) == 0
    assert json.loads(summary.read_text())["verification"]["quality"][1]["top1_agreement"] is None
    printed = " ".join(capsys.readouterr().out.split())
    assert "4 rows of noise: shows that the rewrite is right, says nothing about accuracy" in printed


def test_figures_in_sample_are_called_so() -> None:
    planned = mq.inspect(classifier())
    result = mq.quantize(classifier())
    data = Data(feeds=({"x": normal(30, 64)},), labels=None)
    proof = verify(
        planned.loaded, planned.loaded.model, {}, {}, result.rewritten, planned.loaded.model, data,
        in_sample=True, optimism_db=6.25,
    )  # fmt: skip
    summary = summarize(Run(planned=planned, result=replace(result, verification=proof)))["verification"]
    other = summarize(Run(planned=planned, result=result))["verification"]
    assert summary is not None and other is not None
    assert (summary["in_sample"], summary["optimism_db"], summary["samples"]) == (True, 6.25, 30)
    assert title(summary).endswith(
        "in-sample: the weights were fitted to these rows, expect about 6.2 dB less on other rows"
    )
    assert "in-sample" not in title({**summary, "in_sample": False})
    assert "in-sample" not in title(other)


def test_proxy_rows_are_named_and_counted_once() -> None:
    proof = {"samples": 32, "data": "32 proxy photographs", "origin": "proxy", "in_sample": False}
    assert title(cast(VerificationData, proof)) == "against the float model, 32 proxy photographs (not your data)"


def thresholded(factor: float, rows: Array) -> ModelProto:
    """Whether `factor` * x.w is above what float gives for `rows`: a decision at the limit of rounding."""
    limits = rows @ weight(64, 32)
    return text("g (float[N,64] x, float[64,32] w, float c, float[1,32] t) => (bool[N,32] y) "
                "{ a = MatMul (x, w) [scaled] b = Mul (a, c) [compared] y = Greater (b, t) }",
                w=weight(64, 32), c=np.array(factor, np.float32), t=limits.astype(np.float32))  # fmt: skip


def test_a_decision_that_rounding_turns_does_not_fail_the_proof_and_a_wrong_value_does() -> None:
    rows = normal(1, 64)
    data = Data(feeds=({"x": rows},), labels=None)
    reference = thresholded(1.0, rows)
    rounded = thresholded(1 + 1e-6, rows)
    assert np.any(Session(reference).run({"x": rows})[0] != Session(rounded).run({"x": rows})[0])
    found = check_equivalence(rounded, reference, Session(rounded, "exact"), data, {"float32"})
    assert found is not None and 100 < found < 140
    wrong = thresholded(1.1, rows)
    with pytest.raises(mq.ProofError, match=r"other decisions or shapes .* first different at 'scaled'"):
        check_equivalence(wrong, reference, Session(wrong, "exact"), data, {"float32"})


def test_a_wrong_value_behind_a_decision_is_found_in_another_feed() -> None:
    model = text("g (float[1,64] x, float[64,32] w, float c, float d, float[1,32] t) => (float[1,32] y) "
                 "{ a = MatMul (x, w) b = Mul (a, c) m = Greater (b, t) [behind] z = Mul (b, d) y = Where (m, z, b) }",
                 w=weight(64, 32), c=np.array(1, np.float32), d=np.array(2, np.float32),
                 t=(normal(1, 64) @ weight(64, 32)).astype(np.float32))  # fmt: skip
    wrong = ModelProto()
    wrong.CopyFrom(model)
    for tensor in wrong.graph.initializer:
        if tensor.name in ("c", "d"):
            value = {"c": 1 + 1e-6, "d": 3}[tensor.name]
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(value, np.float32), tensor.name))
    feeds = [{"x": normal(1, 64)}, {"x": normal(1, 64, seed=1)}]
    turned = first_divergence(wrong, model, feeds[:1], 70)
    assert turned is not None and turned.decision
    found = first_divergence(wrong, model, feeds, 70)
    assert found is not None and not found.decision and "'behind'" in found.where


def test_a_flip_that_only_the_plain_run_shows_is_believed_where_the_graph_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = normal(1, 64)
    data = Data(feeds=({"x": rows},), labels=None)
    monkeypatch.setattr("mixquant_onnx.verification.equivalence.first_divergence", lambda *_: None)
    reference, rounded = thresholded(1.0, rows), thresholded(1 + 1e-6, rows)
    assert check_equivalence(rounded, reference, Session(rounded, "exact"), data, {"float32"}) == math.inf
    plain, scaled = classifier(), classifier()
    scaled.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(1.1 * weight(64, 64), "v"))
    with pytest.raises(mq.ProofError, match="subgraph"):
        check_equivalence(scaled, plain, Session(scaled, "exact"), data, {"float32"})


def test_a_detector_with_nms_keeps_a_promise_only_where_its_shapes_are_floats(tmp_path: Path, fails: Fails) -> None:
    onnx.save(with_nms(), tmp_path / "m.onnx")
    data = data_file(tmp_path, normal(24, 64))
    quick = ("--data", data, "--bits", "2", "--method", "mse", "--cost", "energy")
    line = fails(9, tmp_path / "m.onnx", tmp_path / "o.onnx", "--min-sqnr", "-300", *quick)
    assert "another shape than float's" in line


def risk(reference: Array, other: Array, origin: Origin, axis: int | None = None, labels: Array | None = None) -> str:
    """The warnings, as one text."""
    axes = {} if axis is None else {"y": axis}
    quality = qualities.quality_of("deployed", [[reference]], [[other]], ["y"], axes, labels)
    right = accuracy([[reference]], ["y"], axes, labels)
    return "; ".join(warnings_of([quality], right, origin))


def test_quality_at_risk_is_told_with_what_to_do() -> None:
    y = 10 * normal(40, 6, 10)
    near, far = y + 0.5 * normal(40, 6, 10, seed=1), y + 3 * normal(40, 6, 10, seed=1)
    assert sqnr_db(y, near) > 20 > sqnr_db(y, far)
    assert risk(y, near, "proxy") == "" != risk(y, far, "proxy")
    line = risk(y, far, "proxy")
    assert f"{sqnr_db(y, far):.1f} dB" in line and "--data" in line and "--qem" in line
    assert "at risk" in line and "not known" in risk(y, far, "noise") and "--data" not in risk(y, far, "user")


def test_decisions_tell_more_than_db() -> None:
    y = normal(1000, 10)
    y[np.arange(1000), np.arange(1000) % 10] += 9
    far = y + 1.5 * normal(1000, 10, seed=1)
    assert sqnr_db(y, far) < 20 and risk(y, far, "user", axis=1) == ""
    assert "dB" in risk(y, far, "noise", axis=1)
    moved = y.copy()
    moved[:30] = moved[:30, ::-1]
    assert "3.0% of decisions change" in risk(y, moved, "user", axis=1)
    labels = np.arange(1000) % 10
    assert "accuracy 97.0%, float 100.0%" in risk(y, moved, "user", 1, labels)


def test_a_map_of_which_no_detection_changes_is_not_at_risk_for_its_low_sqnr() -> None:
    y = 1e-3 * np.abs(normal(24, 1, 32, 32))
    y[:, :, :2] = 0.9
    noisy = np.where(y > 0.5, 0.6, y)
    assert sqnr_db(y, noisy) < 20 and risk(y, noisy, "proxy") == ""
    noisy[:, :, 1, :8] = 0.4
    assert "dB" in risk(y, noisy, "proxy")
    scores = measured(y, noisy).outputs[0].parts[0].scores
    assert scores is not None and (scores.hits, scores.count) == (24 * 56, 24 * 64)
