"""The bytes that commands write on the models of this project: what only moves code changes none of them.

After a change that is meant, `GOLDEN=write pytest tests/test_golden.py` writes tests/golden.json anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import ROOT

from mixquant_onnx.cli.main import main

FILE = Path(__file__).with_name("golden.json")
SOME = ["--data", "rows.npz"]
COMMANDS = {
    "default": [],
    "data-free": ["--data-free", "--qem", "4"],
    "paper": ["--rule", "paper", "--method", "minmax", "--rounding", "nearest", "--data-free"],
    "model scope": ["--scope", "model", "--method", "mse", "--data-free"],
    "blocks": ["--granularity", "block:32", "--method", "mse", "--data-free", "--bits", "3,5"],
    "auto granularity": ["--granularity", "auto", "--avg-bits", "4", "--data-free"],
    "symmetric": ["--symmetric", "--baseline", "same", "--granularity", "tensor", "--data-free", "--bits", "4,8"],
    "hqq": ["--method", "hqq", "--avg-bits", "3.5", "--data-free"],
    "qdq": ["--target", "qdq", "--max-size", "30%", "--data-free"],
    "native types": ["--native-types", "--data-free", "--include", "*"],
    "fused": ["--fused", "always", "--min-ort", "1.25", "--data-free"],
    "older": ["--min-ort", "1.20", "--data-free", "--min-size", "2000"],
    "gptq": ["--bits", "3", *SOME],
    "adaround": ["--method", "adaround", "--bits", "4", *SOME],
    "budget": ["--avg-bits", "3", "--cost", "output", *SOME],
    "promise": ["--min-sqnr", "20", "--cost", "energy", *SOME],
    "plan": ["--apply", "plan.json", "--data-free"],
}


def environment() -> list[str]:
    """What the last digits of sums depend on, and they decide how weights round and which of two ranges is better."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return [np.__version__, onnx.__version__, onnxruntime.__version__, platform.machine(), *names[:1]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


LONG = ("promise", "adaround", "auto granularity")
"""Commands that take seconds; their parts have tests of their own."""

CASES = [
    pytest.param(model, name, marks=pytest.mark.slow)
    if name in LONG or (name == "budget" and model == "digits_cnn")
    else (model, name)
    for model in ("digits_cnn", "digits_transformer")
    for name in COMMANDS
]


@pytest.mark.parametrize(("model", "name"), CASES)
def test_the_same_bytes(model: str, name: str, folder: Path) -> None:
    source = ROOT / "models" / model / "model.onnx"
    with np.load(source.with_name("calib.npz")) as stored:
        np.savez(folder / "rows.npz", input=stored["input"][:64])
    if name == "plan":
        assert main([str(source), "first.onnx", "--data-free", "--no-verify", "--plan", "plan.json"]) == 0
    assert main([str(source), "out.onnx", *COMMANDS[name]]) == 0
    found = hashlib.sha256((folder / "out.onnx").read_bytes()).hexdigest()
    golden = json.loads(FILE.read_text())
    if os.environ.get("GOLDEN") == "write":
        golden["environment"] = environment()
        golden.setdefault(model, {})[name] = found
        FILE.write_text(json.dumps(golden, indent=1) + "\n")
        return
    if golden["environment"] != environment():
        pytest.skip(f"the digests are of {golden['environment']}")
    assert found == golden[model][name]
