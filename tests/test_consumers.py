"""Files of both targets in other runtimes, and after tools that rewrite models. Tables: tools/bench consumers."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import decibels
from conftest import ROOT
from onnx import version_converter
from onnx.reference import ReferenceEvaluator

import mixquant_onnx as mq
from mixquant_onnx.runtime.session import Session

ROWS = np.load(ROOT / "models" / "digits_cnn" / "eval.npz")["input"][:4].astype(np.float32)
FORMS: dict[str, Any] = {"qdq": {"target": "qdq"}, "native": {"target": "qdq", "native_types": True}, "ort": {}}
CASES = [(form, bits) for form in FORMS for bits in range(2, 9) if form != "native" or bits in (2, 4, 8)]


@pytest.fixture(params=["digits_cnn", pytest.param("digits_transformer", marks=pytest.mark.slow)])
def model_path(request: pytest.FixtureRequest) -> Path:
    return ROOT / "models" / str(request.param) / "model.onnx"


def quantized(source: Path | onnx.ModelProto, path: Path, form: str, bits: int) -> Any:
    """The exact output of a file that is written at one width."""
    mq.quantize(source, path, bits=bits, data_free=True, method="mse", verify=False, **FORMS[form])
    return exact(path)


def exact(model: Path | onnx.ModelProto) -> Any:
    return Session(model, "exact").run({"input": ROWS})[0]


@pytest.mark.parametrize(("form", "bits"), [case for case in CASES if case[0] == "native" or case == ("ort", 5)])
def test_openvino_runs_native_types_and_knows_no_functions(
    form: str, bits: int, model_path: Path, tmp_path: Path
) -> None:
    core = pytest.importorskip("openvino").Core()
    wanted = quantized(model_path, tmp_path / "o.onnx", form, bits)
    if form == "ort":
        with pytest.raises(
            RuntimeError, match=f"No conversion rule found for operations: mixquant.DequantizeLinear{bits}"
        ):
            core.read_model(tmp_path / "o.onnx")
        return
    compiled = core.compile_model(tmp_path / "o.onnx", "CPU", {"EXECUTION_MODE_HINT": "ACCURACY"})
    assert decibels(wanted, compiled([ROWS])[0]) > 90


@pytest.mark.parametrize("bits", range(2, 9))
def test_openvino_runs_standard_operators(bits: int, model_path: Path, tmp_path: Path) -> None:
    core = pytest.importorskip("openvino").Core()
    wanted = quantized(model_path, tmp_path / "o.onnx", "qdq", bits)
    compiled = core.compile_model(tmp_path / "o.onnx", "CPU", {"EXECUTION_MODE_HINT": "ACCURACY"})
    assert decibels(wanted, compiled([ROWS])[0]) > 90


@pytest.mark.parametrize(("form", "bits"), CASES)
def test_the_evaluator_of_onnx_computes_the_same(form: str, bits: int, model_path: Path, tmp_path: Path) -> None:
    """It has no DequantizeLinear below opset 19, so the model is brought to 21 first."""
    source = model_path if form == "ort" else version_converter.convert_version(onnx.load(model_path), 21)
    wanted = quantized(source, tmp_path / "o.onnx", form, bits)
    outputs: Any = ReferenceEvaluator(str(tmp_path / "o.onnx")).run(None, {"input": ROWS})
    assert decibels(wanted, outputs[0]) > 90


@pytest.mark.parametrize("tool", ["onnxslim", "onnxsim"])
@pytest.mark.parametrize("form", ["qdq", "ort"])
@pytest.mark.parametrize("bits", [4, 5])
def test_tools_that_rewrite_models_change_no_result(
    bits: int, form: str, tool: str, model_path: Path, tmp_path: Path
) -> None:
    """Codes below 8 bits that ONNX has no type for become 8-bit codes; onnxslim makes floats of functions."""
    library = pytest.importorskip(tool)
    wanted = quantized(model_path, tmp_path / "o.onnx", form, bits)
    before = onnx.load(tmp_path / "o.onnx")
    after = library.slim(onnx.load(tmp_path / "o.onnx")) if tool == "onnxslim" else library.simplify(before)[0]
    assert decibels(wanted, exact(after)) > 90
    folded = tool == "onnxslim" and form == "ort"
    kept = quantized_weights(before) if not folded else 0
    assert quantized_weights(after) == kept
    share = after.ByteSize() / model_path.stat().st_size
    assert share > 0.95 if folded else share < 0.35


def quantized_weights(model: onnx.ModelProto) -> int:
    counts = Counter(node.op_type.rstrip("2345678") for node in model.graph.node)
    return counts["DequantizeLinear"]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with onnxruntime-web, and node to run it."""
    folder = tmp_path_factory.mktemp("web")
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", ".", "onnxruntime-web"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        pytest.skip(f"npm cannot install onnxruntime-web: {done.stderr.strip().splitlines()[:1]}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_cnn", "digits_transformer"])
def test_webassembly_runs_every_form(name: str, web: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tools = {part: importlib.import_module(f"consumer_tools.{part}") for part in ("catalog", "files", "measure")}
    consumer = next(one for one in tools["catalog"].CONSUMERS if one.on_node)
    files = tools["files"]
    np.save(tmp_path / "rows.npy", ROWS)
    model = ROOT / "models" / name / "model.onnx"
    forms = [form for form in files.FORMS if form != files.UINT2]
    made = files.make(model, ROWS, tmp_path, forms, files.WIDTHS)
    assert len(made) == 4 * len(files.WIDTHS) + 3
    node = Path(str(shutil.which("node")))
    results = tools["measure"].measure(consumer, node, web, made, tmp_path / "rows.npy")
    assert len(results) == len(made)
    for result in results:
        assert result.failure is None, (result.file.form, result.file.bits, result.failure)
        assert result.decibels > 90, (result.file.form, result.file.bits)
