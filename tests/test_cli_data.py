"""Plans that are written, edited and replayed, and the user's own data; each refused where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import Array, Fails, classifier, run, text, weight
from onnx import numpy_helper

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main


@pytest.fixture
def plan(model: Path, tmp_path: Path) -> dict[str, Any]:
    """The plan for `model`, as JSON."""
    path = tmp_path / "made.json"
    assert main(["inspect", str(model), "--plan", str(path), "--bits", "4-8"]) == 0
    made: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    path.unlink()
    return made


def save(folder: Path, content: Any) -> Path:
    path = folder / "plan.json"
    path.write_text(json.dumps(content), encoding="utf8")
    return path


@pytest.mark.parametrize(
    "options",
    ["", "--qem 8 --bits 2-7", "--granularity block:16 --symmetric", "--method mse", "--baseline same --qem 1",
     "--exclude second", "--target qdq", "--granularity tensor --rounding nearest"],
)  # fmt: skip
def test_a_plan_replayed_gives_the_same_file(options: str, model: Path, tmp_path: Path) -> None:
    first, second, saved = tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "plan.json"
    assert main([str(model), str(first), "--plan", str(saved), *options.split()]) == 0
    form = [word for word in options.split() if word in ("--target", "qdq", "--rounding", "nearest")]
    assert main([str(model), str(second), "--apply", str(saved), *form]) == 0
    assert first.read_bytes() == second.read_bytes()


def test_an_edited_plan_is_followed(plan: dict[str, Any], model: Path, output: Path, tmp_path: Path) -> None:
    plan["sites"] = {"v": "w3.b16.minmax.sym"}
    summary = tmp_path / "summary.json"
    arguments = ["--apply", str(save(tmp_path, plan)), "--json", str(summary)]
    assert main([str(model), str(output), *arguments]) == 0
    written = json.loads(summary.read_text(encoding="utf8"))
    assert [(t["name"], t["scheme"]) for t in written["tensors"]] == [("v", "w3.b16.minmax.sym")]
    assert written["skipped"] == [{"name": "w", "reason": "not in the plan", "nbytes": 64 * 10 * 4}]


@pytest.mark.parametrize("method", ["gptq", "adaround"])
def test_a_method_that_needs_data_is_refused_without_it(
    method: str, plan: dict[str, Any], model: Path, output: Path, tmp_path: Path, fails: Fails
) -> None:
    """At once with --data-free; else where the model reads something of no known kind, as this one does."""
    for command in ([model, output], ["inspect", model], ["sweep", model, "--qem", "2"]):
        assert f"--method {method} needs --data" in fails(2, *command, "--method", method, "--data-free")
        assert f"--method {method} needs --data" in fails(6, *command, "--method", method)
    plan["sites"]["v"] = f"w3.channel.{method}"
    applied = ["--apply", save(tmp_path, plan)]
    for code, option in ((2, ["--data-free"]), (6, [])):
        line = fails(code, model, output, *applied, *option)
        assert f"'v', '{method}', needs --data" in line
    with pytest.raises(mq.DataError, match="--data"):
        mq.apply_plan(model, mq.Plan.from_json(plan))
    with pytest.raises(mq.OptionError, match="--data"):
        mq.apply_plan(model, mq.Plan.from_json(plan), data_free=True)
    data = tmp_path / "data.npz"
    np.savez(data, x=rows(64))
    assert main(["inspect", str(model), *map(str, applied)]) == 0
    assert main([str(model), str(output), *map(str, applied), "--data", str(data)]) == 0


def test_a_plan_names_every_weight_with_its_scheme(plan: dict[str, Any]) -> None:
    assert plan["format"] == 1 and list(plan["sites"]) == ["v", "w"]
    assert all(mq.Plan.from_json(plan).sites[name].bits in range(4, 9) for name in plan["sites"])
    assert mq.Plan.from_json(plan).to_json() == plan


@pytest.mark.parametrize(
    "content",
    ["", "not json", "[1, 2]", "{}", '{"format": 1}', '{"format": 2, "sites": {}}', '{"format": 1, "sites": []}',
     '"plan"', "\u0000", pytest.param("[" * 100000, id="deep")],
)  # fmt: skip
def test_a_file_that_is_no_plan_is_refused(content: str, model: Path, output: Path, fails: Fails) -> None:
    path = model.with_name("plan.json")
    path.write_text(content, encoding="utf8")
    assert "--plan FILE" in fails(5, model, output, "--apply", path)


def test_a_plan_that_is_not_text_missing_or_a_folder_is_refused(model: Path, output: Path, fails: Fails) -> None:
    path = model.with_name("plan.json")
    path.write_bytes(b"\xff\xfe\x00")
    fails(5, model, output, "--apply", path)
    assert "absent.json" in fails(5, model, output, "--apply", path.with_name("absent.json"))
    fails(5, model, output, "--apply", path.parent)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sites": {"absent": "w4.channel.minmax"}}, "'absent'"),
        ({"sites": {"v": "w9.channel.minmax"}}, "'w9.channel.minmax'"),
        ({"sites": {"v": "w4.row.minmax"}}, "'w4.row.minmax'"),
        ({"sites": {"v": 4}}, "'4'"),
        ({"sites": {"v": "w4.channel.best"}}, "best"),
        ({"sites": {"v": "w4.b1.minmax"}}, "b1"),
        ({"skipped": [1, 2]}, "plan"),
        ({"skipped": "none"}, "plan"),
        ({"settings": 5}, "plan"),
        ({"settings": {"qem": "two"}}, "qem"),
    ],
    ids=str,
)
def test_a_plan_that_does_not_fit_is_refused_with_the_name(
    change: dict[str, Any], named: str, plan: dict[str, Any], model: Path, output: Path, tmp_path: Path, fails: Fails
) -> None:
    path = save(tmp_path, {**plan, **change})
    assert named in fails(5, model, output, "--apply", path)


def test_a_plan_for_a_weight_with_nan_is_refused(
    plan: dict[str, Any], model: Path, output: Path, tmp_path: Path, fails: Fails
) -> None:
    broken = classifier()
    broken.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((64, 64), np.nan, np.float32), "v"))
    onnx.save(broken, model)
    assert "'v', which holds NaN or Inf" in fails(5, model, output, "--apply", save(tmp_path, plan))


def test_an_empty_plan_quantizes_nothing(
    plan: dict[str, Any], model: Path, output: Path, tmp_path: Path, fails: Fails
) -> None:
    fails(7, model, output, "--apply", save(tmp_path, {**plan, "sites": {}}))


def rows(count: int = 6, width: int = 64, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(0).standard_normal((count, width)).astype(dtype)


def with_nan() -> Array:
    values = rows()
    values[2, 3] = np.nan
    return values


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"z": rows()}, "no array 'x'"),
        ({"x": rows(width=63)}, "(6, 63)"),
        ({"x": rows()[0]}, "(64,)"),
        ({"x": rows(dtype=np.float64)}, "float64"),
        ({"x": rows(dtype=np.int64)}, "int64"),
        ({"x": with_nan()}, "NaN"),
        ({"x": rows(0)}, "'x'"),
        ({"x": rows(), "labels": np.zeros(5, np.int64)}, "5 labels for 6 rows"),
    ],
)
def test_data_that_does_not_fit_the_model_is_refused(
    arrays: dict[str, Array], named: str, model: Path, output: Path, fails: Fails
) -> None:
    path = model.with_name("data.npz")
    np.savez(path, allow_pickle=False, **arrays)
    assert named in fails(6, model, output, "--data", path)


@pytest.mark.parametrize("count", [0, 3])
def test_rows_that_do_not_fill_a_fixed_batch_are_refused(count: int, model: Path, output: Path, fails: Fails) -> None:
    onnx.save(classifier(batch="2"), model)
    path = model.with_name("data.npz")
    np.savez(path, x=rows(count))
    assert f"({count}, 64)" in fails(6, model, output, "--data", path)


@pytest.mark.parametrize("content", [b"", b"text\n", b"PK\x03\x04"])
def test_data_of_another_kind_is_refused(content: bytes, model: Path, output: Path, fails: Fails) -> None:
    path = model.with_name("data.npz")
    path.write_bytes(content)
    assert "numpy.savez" in fails(6, model, output, "--data", path)


def test_data_that_is_missing_or_an_empty_folder_is_refused(model: Path, output: Path, fails: Fails) -> None:
    (model.parent / "empty").mkdir()
    for path in (model.with_name("absent.npz"), model.parent / "empty"):
        assert path.name in fails(6, model, output, "--data", path)


@pytest.mark.parametrize("content", [None, "one\ntwo\n", "1 2\n3 4\n", "1\n2\n"])
def test_labels_that_do_not_fit_are_refused(content: str | None, model: Path, output: Path, fails: Fails) -> None:
    data, labels = model.with_name("data.npz"), model.with_name("labels.txt")
    np.savez(data, x=rows())
    if content is not None:
        labels.write_text(content, encoding="utf8")
    assert "label" in fails(6, model, output, "--data", data, "--labels", labels)


def test_data_on_which_the_float_model_does_not_run_is_refused(model: Path, output: Path, fails: Fails) -> None:
    onnx.save(text("g (int64[N] i, float[50,32] w) => (float[N,32] y) { y = Gather (w, i) }", w=weight(50, 32)), model)
    path = model.with_name("data.npz")
    np.savez(path, i=np.array([1, 99]))
    assert "does not run on this data" in fails(6, model, output, "--data", path)


def test_data_for_which_the_float_model_gives_nan_is_refused(model: Path, output: Path, fails: Fails) -> None:
    onnx.save(text("g (float[N,64] x, float[64,32] w) => (float[N,32] y) { h = MatMul (x, w) y = Sqrt (h) }",
                   w=weight(64, 32)), model)  # fmt: skip
    path = model.with_name("data.npz")
    np.savez(path, x=rows())
    assert "NaN" in fails(6, model, output, "--data", path)


@pytest.mark.parametrize("batch", ["N", "2"])
@pytest.mark.parametrize("kind", ["npz", "folder", "text labels"])
def test_accuracy_on_labelled_data_is_told(kind: str, batch: str, model: Path, output: Path, tmp_path: Path) -> None:
    onnx.save(classifier(batch), model)
    values, summary = rows(8), tmp_path / "summary.json"
    scores = np.concatenate([run(classifier(batch), {"x": values[start : start + 2]})[0] for start in (0, 2, 4, 6)])
    labels = scores.argmax(1)
    labels[0] = (labels[0] + 1) % 10
    arguments = ["--data", str(tmp_path / "data.npz")]
    if kind == "folder":
        arguments = ["--data", str(tmp_path / "data")]
        (tmp_path / "data").mkdir()
        for start in (0, 4):
            part = slice(start, start + 4)
            np.savez(tmp_path / "data" / f"{start}.npz", x=values[part], labels=labels[part])
    elif kind == "npz":
        np.savez(tmp_path / "data.npz", x=values, labels=labels)
    else:
        np.savez(tmp_path / "data.npz", x=values)
        np.savetxt(tmp_path / "labels.txt", labels, fmt="%d")
        arguments += ["--labels", str(tmp_path / "labels.txt")]
    assert main([str(model), str(output), "--bits", "8", "--json", str(summary), *arguments]) == 0
    proof = json.loads(summary.read_text(encoding="utf8"))["verification"]
    assert proof["samples"] == 8 and not proof["synthetic"]
    assert proof["float_accuracy"] == 7 / 8
    assert [quality["accuracy"] for quality in proof["quality"]] == [7 / 8, 7 / 8]
    assert [quality["top1_agreement"] for quality in proof["quality"]] == [1.0, 1.0]
