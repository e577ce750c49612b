"""Outputs load and run on older releases of onnxruntime, each in an environment of its own."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import mixquant_onnx as mq
from mixquant_onnx.config.parsing import FUSED_PAYS_FROM
from mixquant_onnx.export.targets.releases import releases_of

ROOT = Path(__file__).resolve().parent.parent
RELEASES = ("1.20.1", "1.21.1", "1.23.2", "1.25.1", "1.28.0")

_CHILD = """
import json, sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
feed = dict(np.load(sys.argv[2]))
session = onnxruntime.InferenceSession(sys.argv[1], options)
np.save(sys.argv[3], session.run(None, feed)[0])
print(json.dumps(onnxruntime.__version__))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """(release, its Python), installed on first use."""
    version = str(request.param)
    folder = ROOT / f".venv-ort-{version}"
    python = folder / "bin" / "python"
    with folder.with_suffix(folder.suffix + ".lock").open("w") as lock:  # other workers of pytest-xdist want it too
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".ready").exists():
            venv.create(folder, with_pip=True, clear=True)
            wanted = [f"onnxruntime=={version}", "numpy<2.4"]
            subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True, capture_output=True)
            (folder / ".ready").touch()
    return version, python


def _product(rows: int, columns: int) -> ModelProto:
    weight = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, columns])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def _models() -> dict[str, ModelProto]:
    names = ("digits_cnn", "digits_transformer")
    models = {name: onnx.load(ROOT / "models" / name / "model.onnx") for name in names}
    return {**models, "product": _product(1024, 600), "product in blocks": _product(1024, 600)}


def _release(text: str) -> tuple[int, int]:
    major, minor, *_ = map(int, text.split("."))
    return major, minor


@pytest.mark.parametrize("name", ["digits_cnn", "digits_transformer", "product", "product in blocks"])
@pytest.mark.parametrize("bits", [3, 4, 5, 8])
def test_a_file_for_a_release_loads_and_runs_on_it(
    release: tuple[str, Path], name: str, bits: int, tmp_path: Path
) -> None:
    version, python = release
    model = _models()[name]
    wanted = min(_release(version), (1, 25))
    granularity = "block:32" if name.endswith("in blocks") else "channel"
    options: dict[str, Any] = {"granularity": granularity, "min_ort": wanted, "fused": "always", "data_free": True}
    result = mq.quantize(model, tmp_path / "q.onnx", bits=[bits], **options)
    on_kernels = any(storage.fused for storage in result.rewritten.storages.values())
    assert on_kernels == (name.startswith("product") and wanted >= FUSED_PAYS_FROM)
    stated = releases_of(result.rewritten.storages.values(), result.rewritten.opset[1])
    assert _release(stated.loads_from) <= _release(version)
    shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    feed = np.random.default_rng(1).standard_normal(shape).astype(np.float32) * 50
    np.savez(tmp_path / "feed.npz", allow_pickle=False, **{model.graph.input[0].name: feed})
    outputs: list[np.ndarray] = []
    for interpreter in (python, Path(sys.executable)):
        out = tmp_path / f"out{len(outputs)}.npy"
        command = [interpreter, "-c", _CHILD, tmp_path / "q.onnx", tmp_path / "feed.npz", out]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        outputs.append(np.load(out))
        if interpreter == python:
            assert json.loads(done.stdout) == version
    # Releases round activations inside MatMulNBits to 8 bits in ways of their own.
    assert np.abs(outputs[0] - outputs[1]).max() <= 0.03 * np.abs(outputs[1]).max()
