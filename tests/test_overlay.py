"""--overlay: node data for Model Explorer."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from cases import text, weight

from mixquant_onnx.cli.main import main


def test_values_are_by_the_outputs_of_the_layers(tmp_path: Path) -> None:
    model = text(
        """net (float[N,64] x, float[64,64] u, float[64,64] v) => (float[N,64] y)
        { h = MatMul (x, u) i = MatMul (h, v) y = MatMul (i, v) }""", u=weight(64, 64), v=weight(64, 64, seed=1),
    )  # fmt: skip
    model.graph.node[0].name = "named"
    onnx.save(model, tmp_path / "m.onnx")
    folder = tmp_path / "new" / "overlay"
    assert main([str(tmp_path / "m.onnx"), str(tmp_path / "o.onnx"), "--bits", "5", "--overlay", str(folder)]) == 0
    assert {file.name for file in folder.iterdir()} == {
        "bits.json",
        "bytes.json",
        "qe.json",
        "sensitivity.json",
        "sqnr_db.json",
    }
    bits = json.loads((folder / "bits.json").read_text())["net"]
    outputs = {name: {"value": 5.0} for name in ("h", "i", "y")}
    assert outputs.items() <= bits["results"].items() and bits["name"] == "bits"
    assert {"named"} == set(bits["results"]) - set(outputs) - {"MatMul->i", "MatMul->y"}
    shares = json.loads((folder / "sensitivity.json").read_text())["net"]["results"]
    assert shares["h"]["value"] + shares["i"]["value"] == pytest.approx(1) and shares["i"] == shares["y"]
    assert [stop["stop"] for stop in bits["gradient"]] == [0, 1]
    written = {o for node in onnx.load(tmp_path / "o.onnx").graph.node for o in node.output}
    assert set(outputs) <= written


def test_a_folder_that_cannot_be_made_is_an_early_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["missing.onnx", str(tmp_path / "o.onnx"), "--overlay", str(tmp_path / "file")]) == 4
    assert "file" in capsys.readouterr().err
