"""--report: one HTML file that tells what happened to a model."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import text, weight
from onnx import ModelProto

from mixquant_onnx.cli import outputs
from mixquant_onnx.cli.main import main

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = "w</script><b>"


def network() -> ModelProto:
    model = text(
        "g (float[N,64] x, float[64,64] u, float[64,32] v) => (float[N,32] y) { h = MatMul (x, u) y = MatMul (h, v) }",
        u=weight(64, 64), v=weight(64, 32, seed=1),
    )  # fmt: skip
    model.graph.initializer[0].name = model.graph.node[0].input[1] = EVIL
    return model


@pytest.fixture
def report(tmp_path: Path) -> Path:
    onnx.save(network(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(1).standard_normal((48, 64)).astype(np.float32))
    files = [str(tmp_path / name) for name in ("m.onnx", "o.onnx")]
    given = ["--data", str(tmp_path / "d.npz"), "--qem", "20", "--benchmark", "--report", str(tmp_path / "r.html")]
    assert main([*files, *given]) == 0
    return tmp_path / "r.html"


def own(path: Path) -> str:
    """The page without the library."""
    return re.sub(r"<script>.*?</script>", "", path.read_text("utf8"), count=1, flags=re.DOTALL)


def test_the_page_tells_what_happened(report: Path) -> None:
    page = own(report)
    for part in ("Where the bytes are", "Error against bits", "All weights", "Verification", "Versions and options",
                 "bits a weight", "time of one row", "of float&#39;s", "rows of your data"):  # fmt: skip
        assert part in page, part


def test_nothing_comes_from_outside(report: Path) -> None:
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", own(report))


def test_names_are_text(report: Path) -> None:
    page = own(report)
    assert EVIL not in page and "w&lt;/script&gt;&lt;b&gt;" in page


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
    assert "Size against quality" in page and "qem 100" in page and "Pareto front" in page


def test_missing_packages_are_named_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "find_spec", lambda name: None)
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
    assert len(re.findall(r'class="[^"]*js-plotly-plot', done.stdout)) == 3
    assert len(re.findall(r'<svg class="main-svg"', done.stdout)) >= 3 and "barlayer" in done.stdout
