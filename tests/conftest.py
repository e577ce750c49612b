from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(params=["digits_cnn", "digits_transformer"])
def model_path(request: pytest.FixtureRequest) -> Path:
    return ROOT / "models" / str(request.param) / "model.onnx"
