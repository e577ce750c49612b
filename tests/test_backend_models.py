"""Nothing but the weights, and the operator that reads one, changes: over all models of onnx's backend tests."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from model_diff import assert_only_weights_changed

import mixquant_onnx as mq
from mixquant_onnx.model.weights import find

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
FETCHED = Path(__file__).resolve().parent.parent / "fetched"


def _models(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.onnx"))


def _with_weights(folder: str) -> list[Path]:
    return [path for path in _models(DATA / folder) if find(onnx.load(path), 1).sites]


@pytest.mark.usefixtures("stored_at_a_loss")
@pytest.mark.parametrize("folder", ["simple", "pytorch-converted", "pytorch-operator", "light", "real"])
@pytest.mark.parametrize("target", ["ort", "qdq"])
def test_only_weights_change_in_the_backend_models(folder: str, target: str) -> None:
    changed = 0
    for path in _with_weights(folder):
        for bits in (5, 8):
            before = onnx.load(path)
            try:
                result = mq.quantize(path, bits=[bits], min_size=64, target=target, data_free=True)
            except mq.UnchangedError:
                continue
            assert_only_weights_changed(before, result)
            changed += 1
    if folder == "pytorch-converted":
        assert changed > 15


@pytest.mark.slow
@pytest.mark.parametrize("path", _models(FETCHED), ids=lambda p: p.parent.name)
def test_only_weights_change_in_the_fetched_models(path: Path) -> None:
    before = onnx.load(path)
    if not find(before, 256).sites:
        with pytest.raises(mq.UnchangedError):
            mq.quantize(path)
        return
    assert_only_weights_changed(before, mq.quantize(path))
