"""What --json gives fits the schemas in docs/schema/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from cases import weight
from conftest import ROOT

from mixquant_onnx.cli.main import main

CNN = ROOT / "models" / "digits_cnn" / "model.onnx"


@pytest.fixture
def data(tmp_path: Path) -> str:
    with np.load(CNN.with_name("calib.npz")) as rows:
        np.savez(tmp_path / "d.npz", **{name: rows[name][:40] for name in rows.files})
    return str(tmp_path / "d.npz")


def written(path: Path, *arguments: object) -> Any:
    assert main([*map(str, arguments), "--json", str(path)]) == 0
    return json.loads(path.read_text(), parse_constant=pytest.fail)


def schema(name: str) -> Any:
    return json.loads((ROOT / "docs" / "schema" / f"{name}.json").read_text())


@pytest.mark.parametrize(
    "options",
    [
        "--method mse",
        "--activations 8 --benchmark",
        "--no-verify --exclude stage5.*",
        "--data-free --bits 5",
        "--min-sqnr 5 --method mse --effort fast",
    ],
)
def test_the_summary_of_a_run(options: str, data: str, tmp_path: Path) -> None:
    given = [] if "--data-free" in options else ["--data", data]
    found = written(tmp_path / "s.json", CNN, tmp_path / "o.onnx", *given, *options.split())
    jsonschema.validate(found, schema("summary"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "other": 1}, schema("summary"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "format": 2}, schema("summary"))


def test_the_summary_of_a_plan(tmp_path: Path) -> None:
    found = written(tmp_path / "s.json", "inspect", CNN, "--blocks", "--data-free")
    jsonschema.validate(found, schema("summary"))


@pytest.mark.parametrize("verify", [[], ["--no-verify"]])
def test_a_sweep(data: str, verify: list[str], tmp_path: Path) -> None:
    found = written(tmp_path / "s.json", "sweep", CNN, "--qem", "1,4", "--method", "mse", "--data", data, *verify)
    jsonschema.validate(found, schema("sweep"))


def test_a_comparison(data: str, tmp_path: Path) -> None:
    model = onnx.load(CNN)
    model.graph.initializer[0].raw_data = weight(*model.graph.initializer[0].dims).tobytes()
    onnx.save(model, tmp_path / "other.onnx")
    main(["compare", str(CNN), str(tmp_path / "other.onnx"), "--data", data, "--json", str(tmp_path / "c.json")])
    found = json.loads((tmp_path / "c.json").read_text(), parse_constant=pytest.fail)
    jsonschema.validate(found, schema("compare"))
    assert found["first_apart"] is not None
