"""mixquant-onnx compare: a file of whatever tool against its float model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import Array, text, weight
from onnx import ModelProto, numpy_helper

import mixquant_onnx as mq
from mixquant_onnx.accuracy.gates import judged
from mixquant_onnx.cli.main import main
from mixquant_onnx.verification import benchmark
from mixquant_onnx.verification.latency import Latency


def classifier() -> ModelProto:
    return text(
        """g (float[N,3,8,8] x, float[8,3,3,3] k, float[288,10] w) => (float[N,10] p)
        { c = Conv (x, k) r = Relu (c) f = Flatten (r) s = MatMul (f, w) p = Softmax (s) }""",
        k=weight(8, 3, 3, 3), w=0.3 * weight(288, 10),
    )  # fmt: skip


def rows(count: int = 64) -> Array:
    return np.random.default_rng(8).standard_normal((count, 3, 8, 8)).astype(np.float32)


def changed(model: ModelProto, name: str, how: str) -> ModelProto:
    """A copy with one weight changed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor)
    if how == "rounded":
        values = np.round(values * 256) / 256
    elif how == "shuffled":
        values = np.random.default_rng(0).permutation(values.reshape(-1)).reshape(values.shape)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    return copy


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Paths of models and data by name."""
    model = classifier()
    other_inputs = text("g (float[N,3,8,8] z) => (float[N,3,8,8] p) { p = Relu (z) }")
    unknown = ModelProto.FromString(model.SerializeToString())
    unknown.graph.node[0].op_type = "Unknown"
    made = {"float": model, "rounded": changed(model, "w", "rounded"), "shuffled": changed(model, "k", "shuffled"),
            "chance": changed(model, "w", "shuffled"), "inputs": other_inputs, "unknown": unknown}  # fmt: skip
    for name, one in made.items():
        onnx.save(one, tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "d.npz", x=rows())
    return {**{name: str(tmp_path / f"{name}.onnx") for name in made}, "data": str(tmp_path / "d.npz")}


def run(files: dict[str, str], other: str, *options: str) -> int:
    return main(["compare", files["float"], files[other], "--data", files["data"], "--no-benchmark", *options])


def test_a_model_is_like_itself(files: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(files, "float", "--min-sqnr", "100", "--json", str(tmp_path / "c.json")) == 0
    out = capsys.readouterr().out
    assert "exact" in out and "all values inside have 20 dB or more" in out
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["format"] == 1 and found["samples"] == 64 and found["timing"] is None
    assert [layer["name"] for layer in found["layers"]] == ["c", "r", "f", "s", "p"] and found["first_apart"] is None


def test_values_inside_are_compared(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    found = mq.compare(files["float"], files["rounded"], data=files["data"], benchmark=False)
    by_name = {layer.name: layer for layer in found.layers}
    assert by_name["r"].sqnr_db == float("inf") and 10 < by_name["s"].sqnr_db < 40
    assert by_name["s"].cosine is not None and 0.9 < by_name["s"].cosine < 1
    assert run(files, "rounded") == 0
    assert "values inside, the worst first" in capsys.readouterr().out


def test_the_value_at_which_they_part_is_named(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    found = mq.compare(files["float"], files["shuffled"], data=files["data"], benchmark=False)
    assert found.first_apart is not None and found.first_apart.name == "c" and found.first_apart.op == "Conv"
    run(files, "shuffled")
    assert "they part at 'c' (Conv)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "options", "code", "says"),
    [
        ("unknown", (), 8, "the second model does not load"),
        ("inputs", (), 8, "has other inputs: 'z' in place of 'x'"),
        ("chance", (), 8, "the second model answers otherwise"),
        ("rounded", ("--min-sqnr", "60"), 9, "--min-sqnr 60: "),
        ("rounded", ("--min-agreement", "10%"), 0, ""), ("rounded", ("--max-drop", "1%"), 6, "needs labels"),
        ("rounded", ("--max-slower", "2x"), 2, "--max-slower needs times"),
        ("rounded", ("--max-slower", "fast"), 2, "--max-slower 'fast' is no limit"),
    ],
)  # fmt: skip
def test_exit_codes(
    other: str, options: tuple[str, ...], code: int, says: str, files: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run(files, other, *options) == code
    assert says in capsys.readouterr().err


def test_accuracy_with_labels(files: dict[str, str], tmp_path: Path) -> None:
    right = np.argmax(run_model(files["float"]), axis=1)
    np.save(tmp_path / "y.npy", np.where(np.arange(64) < 48, right, (right + 1) % 10))
    labels = ("--labels", str(tmp_path / "y.npy"))
    assert run(files, "float", *labels, "--max-drop", "0%") == 0
    found = mq.compare(files["float"], files["rounded"], data=files["data"], labels=tmp_path / "y.npy", benchmark=False)
    assert found.float_accuracy is not None and found.float_accuracy.value == 0.75
    assert found.quality.accuracy is not None


def test_several_limits_are_all_checked(
    files: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page, found = tmp_path / "r.html", tmp_path / "c.json"
    limits = ("--min-agreement", "10%", "--min-sqnr", "90", "--report", str(page), "--json", str(found))
    assert run(files, "rounded", *limits) == 9
    printed = capsys.readouterr()
    told = json.loads(found.read_text())
    value = f"{told['quality']['sqnr_db']:.1f} dB"
    assert printed.err == f"mixquant-onnx: --min-sqnr 90: {value}, not kept\n"
    kept = [line for line in printed.out.splitlines() if line.endswith(", kept")]
    assert len(kept) == 1 and kept[0].startswith("--min-agreement 10%: agreement ") and "not kept" not in printed.out
    assert [(one["limit"], one["kept"]) for one in told["limits"]] == [
        ("--min-sqnr 90", False), ("--min-agreement 10%", True)
    ] and told["limits"][0]["value"] == value  # fmt: skip
    assert "<h2>Limits</h2>" in page.read_text("utf8") and "--min-sqnr 90" in page.read_text("utf8")
    assert run(files, "rounded", "--min-agreement", "10%", "--min-sqnr", "1") == 0


def test_data_and_labels_from_a_file_of_options(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other keys, here a goal of runs, do not count; rows of the command line come without the file's labels."""
    np.save(tmp_path / "y.npy", np.argmax(run_model(files["float"]), axis=1))
    (tmp_path / "mixquant.toml").write_text('data = "d.npz"\nlabels = "y.npy"\nmax-size = "50%"\n')
    given = ["compare", files["float"], files["rounded"], "--no-benchmark", "--json", "-"]
    assert main([*given, "--config", str(tmp_path / "mixquant.toml")]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["samples"], found["origin"], found["float_accuracy"]) == (64, "user", 1.0)
    assert printed.err == f"mixquant-onnx: data, labels from {tmp_path / 'mixquant.toml'}\n"
    monkeypatch.chdir(tmp_path)
    assert main(given) == 0 and json.loads(capsys.readouterr().out)["samples"] == 64
    assert main([*given, "--data", files["data"]]) == 0
    assert json.loads(capsys.readouterr().out)["float_accuracy"] is None
    assert main([*given, "--data-free"]) == 0 and json.loads(capsys.readouterr().out)["origin"] == "noise"


def test_one_line_says_on_which_rows(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(files, "rounded", "-q", "--min-sqnr", "1") == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and ", on 64 rows of your data; --min-sqnr 1: " in out and out.endswith(", kept\n")
    given = ["compare", files["float"], files["rounded"], "--no-benchmark", "--data-free", "-q", "--min-sqnr", "1"]
    assert main(given) == 0
    assert "limits are judged on 4 rows of noise; give --data" in capsys.readouterr().err


def run_model(path: str) -> Array:
    from cases import run as outputs

    return outputs(onnx.load(path), {"x": rows()})[0]


def test_time_and_memory(
    files: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def latency(first: Path, second: Path, feed: dict[str, Array], threads: int) -> Latency:
        timed.append(feed["x"].shape)
        return Latency(threads=threads, float_ms=1.0, written_ms=1.3)

    monkeypatch.setattr(benchmark, "latency", latency)
    given = ["compare", files["float"], files["rounded"], "--data", files["data"], "--max-slower"]
    assert main([*given, "1.2x"]) == 9 and "1.3 ms, 1.30 of float's" in capsys.readouterr().err
    assert main([*given, "1.4x"]) == 0
    out = capsys.readouterr().out
    assert "time of one row: 1.3 ms" in out and "memory of a session:" in out
    assert set(timed) == {(1, 3, 8, 8)}


@pytest.mark.parametrize(
    ("times", "rounds", "kept"),
    [
        ([0.5], 0, True), ([2.0], 0, False), ([1.0, 1.01, 0.99], 3, True), ([1.2, 1.3, 1.1], 3, False),
        ([1.2, 0.9, 1.0, 1.3, 1.01], 5, True), ([1.2, 0.9, 1.3, 1.1, 1.01], 5, False),
        ([1.2, 0.9, 1.0, 1.3, 1.01, 9.0], 5, True),
    ],
)  # fmt: skip
def test_a_time_near_its_limit_is_measured_again(
    times: list[float], rounds: int, kept: bool, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(times)

    def latency(first: Path, second: Path, feed: dict[str, Array], threads: int) -> Latency:
        return Latency(threads=threads, float_ms=2.0, written_ms=2.0 * next(left) if threads == 1 else 2.0)

    monkeypatch.setattr(benchmark, "latency", latency)
    found = mq.compare(files["float"], files["float"], data=files["data"], max_slower="1.05x")
    (limit,) = judged(found, {}, "1.05x")
    assert limit.kept == kept and len(found.rounds) == max(rounds, 1)
    assert found.times[0].ratio == pytest.approx(sorted(times[:rounds] or times)[max(rounds, 1) // 2])
    spread = f", {min(times[:rounds]):.2f} to {max(times[:rounds]):.2f} in {rounds} rounds" if rounds else "(1 thread)"
    assert limit.value.endswith(spread)


def test_a_comparison_has_a_report_and_a_figure(files: dict[str, str], tmp_path: Path) -> None:
    page, plot = tmp_path / "r.html", tmp_path / "values.svg"
    assert run(files, "shuffled", "--report", str(page), "--plot", str(plot)) == 8
    told = page.read_text("utf8")
    assert "they part at" in told and "Values inside" in told and '"value": "c"' in told
    assert "SQNR in dB" in plot.read_text()


def test_only_json_on_standard_output(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(files, "rounded", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 64


def test_a_file_of_another_quantizer(files: dict[str, str], tmp_path: Path) -> None:
    """onnxruntime's dynamic quantization keeps the names of values."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(files["float"], tmp_path / "q.onnx", op_types_to_quantize=["MatMul"])
    found = mq.compare(files["float"], tmp_path / "q.onnx", data=files["data"], benchmark=False)
    assert found.quality.sqnr_db is not None and found.quality.sqnr_db > 15
    assert {"c", "r", "s"} <= {layer.name for layer in found.layers}


def test_without_data_inputs_are_generated(files: dict[str, str]) -> None:
    found = mq.compare(files["float"], files["rounded"], benchmark=False)
    assert found.origin == "proxy" and found.samples > 0
    assert mq.compare(files["float"], files["rounded"], data_free=True, benchmark=False).origin == "noise"
