"""--report: one HTML file that tells what happened to a model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import text, weight
from onnx import ModelProto
from rich.console import Console

from mixquant_onnx.cli import figures
from mixquant_onnx.cli.main import main
from mixquant_onnx.report.figures.sweep import accuracy
from mixquant_onnx.report.html.sweep import sweep_page
from mixquant_onnx.report.sections import tradeoff
from mixquant_onnx.report.sections.tradeoff import PointData, Tradeoff

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = "w</script><b>"


def network() -> ModelProto:
    model = text(
        "g (float[N,64] x, float[64,64] u, float[64,32] v) => (float[N,32] y) { h = MatMul (x, u) y = MatMul (h, v) }",
        u=weight(64, 64), v=weight(64, 32, seed=1),
    )  # fmt: skip
    model.graph.initializer[0].name = model.graph.node[0].input[1] = EVIL
    return model


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("report")
    onnx.save(network(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(1).standard_normal((48, 64)).astype(np.float32))
    files = [str(tmp_path / name) for name in ("m.onnx", "o.onnx")]
    given = ["--data", str(tmp_path / "d.npz"), "--qem", "20", "--benchmark", "--report", str(tmp_path / "r.html")]
    assert main([*files, *given]) == 0
    return tmp_path / "r.html"


def own(path: Path) -> str:
    """The page without the library."""
    return re.sub(r"<script>.*?</script>", "", path.read_text("utf8"), count=1, flags=re.DOTALL)


def specifications(path: Path) -> list[dict[str, Any]]:
    """The figures of the page as Vega-Lite specifications."""
    return [json.loads(found) for found in re.findall(r'vegaEmbed\("#figure\d", (.*), options\);', own(path))]


def test_the_page_tells_what_happened(report: Path) -> None:
    page = own(report)
    for part in ("Where the bytes are", "Error against bits", "Values and grid", "All weights", "Verification",
                 "Versions and options", "bits a weight", "time of one row", "of float&#39;s",
                 "rows of your data"):  # fmt: skip
        assert part in page, part


def test_nothing_comes_from_outside(report: Path) -> None:
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", own(report))


def test_names_are_text(report: Path) -> None:
    page = own(report)
    assert EVIL not in page and "w&lt;/script&gt;&lt;b&gt;" in page


def test_weights_are_told_with_their_error_loss_and_grid(report: Path) -> None:
    bars, errors, grid = specifications(report)[1:]
    rows = rows_of(bars, bars)
    assert [row["weight"] for row in rows] == [EVIL, "v"]
    shares = [float(row["share of the loss"].split("%")[0]) for row in rows]
    assert sum(shares) == pytest.approx(100, abs=0.2) and all(
        "weight-error" in row["share of the loss"] for row in rows
    )
    assert errors["params"][0]["bind"]["options"] == [rows[place]["weight"] for place in np.argsort(shares)[::-1]]
    counted = [row for row in named_data(grid) if row.get("weight") == "v" and "share" in row]
    assert sum(row["share"] for row in counted) == pytest.approx(1)


def named_data(specification: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of all layers of a figure."""
    return [row for layer in specification["layer"] for row in rows_of(specification, layer)]


def rows_of(specification: dict[str, Any], part: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a figure, or of one of its layers."""
    rows: list[dict[str, Any]] = specification["datasets"][part["data"]["name"]]
    return rows


def test_a_plan_has_a_report_too(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    assert main(["inspect", str(tmp_path / "m.onnx"), "--data-free", "--report", str(tmp_path / "r.html")]) == 0
    page = own(tmp_path / "r.html")
    assert "Error against bits" in page and "Where the bytes are" not in page


def test_a_sweep_has_a_report_too(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    given = ["--data-free", "--method", "mse", "--qem", "1,100", "--report", str(tmp_path / "r.html")]
    assert main(["sweep", str(tmp_path / "m.onnx"), *given]) == 0
    page = own(tmp_path / "r.html")
    assert "Size against quality" in page and "qem 100" in page and "Size against accuracy" not in page
    (drawn,) = specifications(tmp_path / "r.html")
    assert {row["kind"] for row in named_data(drawn)} == {"plans", "plain int8", "float"}


def test_a_figure_is_a_file_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    plots = ["weights.png", "errors=e.svg"]
    given = [f"--plot={name.replace('=', f'={tmp_path}/') if '=' in name else tmp_path / name}" for name in plots]
    assert main(["inspect", str(tmp_path / "m.onnx"), "--data-free", *given]) == 0
    assert (tmp_path / "weights.png").read_bytes().startswith(b"\x89PNG")
    assert "mean squared error" in (tmp_path / "e.svg").read_text()
    sweep = ["sweep", str(tmp_path / "m.onnx"), "--data-free", "--method", "mse", "--qem", "1"]
    assert main([*sweep, "--plot", "errors=e.txt"]) == 2
    assert "of accuracy, divergence, tradeoff" in capsys.readouterr().err
    assert main([*sweep, "--plot", str(tmp_path / "s.svg")]) == 0
    assert "SQNR in dB" in (tmp_path / "s.svg").read_text()


@pytest.mark.parametrize("name", ["x.jpg", "errors=x", "other=x.txt", "nosuch=x.png"])
def test_other_kinds_of_files_are_refused_before_any_work(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["missing.onnx", "o.onnx", "--plot", name]) == 2
    assert "FIGURE=FILE.png, of bytes, weights, errors, histogram" in capsys.readouterr().err


@pytest.mark.parametrize("figure", ["bytes", "histogram"])
def test_figures_of_a_written_file_are_refused_for_a_plan(figure: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "missing.onnx", "--plot", f"{figure}=x.png"]) == 2
    assert capsys.readouterr().err.endswith("FIGURE=FILE.png, of weights, errors\n")


def test_a_name_with_a_sign_of_equality_may_be_that_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    assert main(["inspect", str(tmp_path / "m.onnx"), "--data-free", "--plot", str(tmp_path / "qem=2.svg")]) == 0
    assert (tmp_path / "qem=2.svg").exists()


@pytest.mark.parametrize("command", [["m.onnx", "o.onnx"], ["inspect", "m.onnx"], ["sweep", "m.onnx", "--qem", "1"]])
def test_a_report_is_a_page(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--report", "r.pdf"]) == 2
    assert "--report r.pdf: a report is a page; end its name in .html" in capsys.readouterr().err
    assert main([*command, "--report", "r.HTM"]) != 2


def test_the_accuracy_of_float_and_int8_is_in_the_figure_of_a_sweep() -> None:
    def point(setting: str, nbytes: int, accuracy: float, pareto: bool) -> PointData:
        return {
            "setting": setting, "nbytes": nbytes, "average_bits": 4.0, "cost": 1.0, "sqnr_db": 20.0, "rows": 40,
            "top1_agreement": 0.9, "accuracy": accuracy, "data": "rows", "finished": True, "pareto": pareto,
            "tokens": None,
        }  # fmt: skip

    points = [point("a", 100, 0.7, True), point("b", 150, 0.6, True), point("c", 200, 0.8, True)]
    data: Tradeoff = {
        "format": 1, "nbytes_before": 900, "float_accuracy": 0.85, "plain_int8": point("plain int8", 250, 0.75, False),
        "points": points,
    }  # fmt: skip
    chart = accuracy(data)
    assert chart is not None
    drawn = chart.to_dict()
    front, _, marks = (rows_of(drawn, layer) for layer in drawn["layer"])
    assert [row["bytes"] for row in front] == [100, 200]
    kinds = {row["kind"]: row["value"] for row in marks}
    assert kinds == {"plans": 0.8, "plain int8": 0.75, "float": 0.85}


def test_a_sweep_tells_what_its_page_and_its_terminal_show(capsys: pytest.CaptureFixture[str]) -> None:
    plain: PointData = {
        "setting": "avg-bits 4", "nbytes": 100, "average_bits": 4.0, "cost": 1.0, "sqnr_db": 20.0, "rows": 100,
        "top1_agreement": 0.9, "accuracy": 0.75, "data": "rows of your data", "finished": False, "pareto": True,
        "tokens": None,
    }  # fmt: skip
    few: PointData = {**plain, "rows": 1, "pareto": False}
    data: Tradeoff = {
        "format": 1, "nbytes_before": 900, "float_accuracy": 0.87, "plain_int8": None, "points": [plain, few],
    }  # fmt: skip
    tradeoff.render(Console(width=80), data)
    shown = capsys.readouterr().out
    assert "* no other plan is both smaller and better in SQNR" in shown
    assert "quality: deployed, on 100 rows of your data; accuracy of float: 87.00%" in shown
    assert "without the last step" in shown and max(map(len, shown.splitlines())) <= 80
    page = re.sub(r"<script>.*?</script>", "", sweep_page(data, "m", ""), count=1, flags=re.DOTALL)
    assert '<p class="soft">Quality: deployed, on 100 rows of your data' in page and "without the last step" in page
    head, *rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in page.split("<tr>")[1:]]
    assert head[4:] == ["agrees", "accuracy", "none better in SQNR"]
    assert [row[4:] for row in rows] == [["90.00%", "75.00%", "yes"], ["-", "75.00%", ""]]


def test_a_page_without_labels_has_no_figure_of_accuracy() -> None:
    assert accuracy({"format": 1, "nbytes_before": 9, "float_accuracy": None, "plain_int8": None, "points": []}) is None


def test_missing_packages_are_named_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    assert main(["missing.onnx", str(tmp_path / "o.onnx"), "--report", str(tmp_path / "r.html")]) == 2
    assert "pip install 'mixquant-onnx[report]'" in capsys.readouterr().err


@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_a_browser_draws_every_figure(report: Path, tmp_path: Path) -> None:
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-quic", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=8000", "--dump-dom", report.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert len(re.findall(r'class="figure vega-embed[^"]*"', done.stdout)) == 4
    assert len(re.findall(r"<svg xmlns", done.stdout)) == 4 and len(re.findall(r"<select", done.stdout)) == 2
