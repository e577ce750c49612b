from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main


def test_the_main_job_on_a_model_of_the_project(model_path: Path, tmp_path: Path) -> None:
    out, summary = tmp_path / "out.onnx", tmp_path / "summary.json"
    data = model_path.parent / "eval.npz"
    code = main([str(model_path), str(out), "--qem", "2", "--data", str(data), "--json", str(summary)])
    assert code == 0
    written = json.loads(summary.read_text())
    assert written["nbytes_after"] == out.stat().st_size < 0.35 * model_path.stat().st_size
    deployed = written["verification"]["quality"][1]
    assert deployed["profile"] == "deployed"
    assert deployed["accuracy"] > written["verification"]["float_accuracy"] - 0.02
    assert deployed["sqnr_db"] > 25


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("granularity", [pytest.param("tensor", marks=pytest.mark.slow), "channel", "block:32"])
@pytest.mark.parametrize("target", ["ort", "qdq"])
def test_every_width_granularity_and_target_passes_its_proof(
    model_path: Path, bits: int, granularity: str, target: str
) -> None:
    options: dict[str, Any] = {"granularity": granularity, "target": target, "fused": "always", "data_free": True}
    result = mq.quantize(model_path, bits=[bits], **options)
    assert result.verification is not None
    assert result.verification.codes == len(result.plan.sites) > 10
    assert result.verification.reference_sqnr_db is not None
    for name, scheme in result.plan.sites.items():
        assert scheme.bits == bits
        assert result.rewritten.nbytes[name] >= result.sites[name].site.elements * bits / 8
