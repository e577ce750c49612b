from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from cases import Fails, classifier, files_under
from newer_runtime import reason_to_skip

from mixquant_onnx import pipeline
from mixquant_onnx.cli.main import main
from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.data.moments import SecondMoments
from mixquant_onnx.export.size import Stored
from mixquant_onnx.planning import integer_model
from mixquant_onnx.planning import planned as planning

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what the installed onnxruntime is too old for."""
    for item in items:
        reason = reason_to_skip(item.name, onnxruntime.__version__)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(params=["digits_cnn", "digits_transformer"])
def model_path(request: pytest.FixtureRequest) -> Path:
    return ROOT / "models" / str(request.param) / "model.onnx"


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """96 images of digits_cnn with their labels."""
    path = tmp_path / "rows.npz"
    with np.load(ROOT / "models" / "digits_cnn" / "eval.npz") as data:
        np.savez(path, input=data["input"][:96], labels=data["labels"][:96])
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(classifier(), path)
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.onnx"


@pytest.fixture
def stored_at_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight of a plan is stored quantized, however small: for tests of forms on small graphs."""
    monkeypatch.setattr(planning, "worth_storing", lambda sizes, chosen, others: Stored(schemes=chosen, left_float={}))
    monkeypatch.setattr(pipeline, "model_bytes", lambda model, external: 0)


@pytest.fixture(autouse=True)
def integers_of_any_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small layers run on integers too, so that tests are quick; but not in the tests of that rule."""
    if request.module.__name__ != "test_slow_layers":
        monkeypatch.setattr(integer_model, "slow_layers", lambda rounding, in_float: set())


@pytest.fixture
def samples_met(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Each weight that is calibrated in turn, and how many samples of its input it met."""
    met: list[tuple[str, int]] = []
    plain = Calibration.collect

    def counted(self: Calibration, names: Sequence[str], *given: Any) -> dict[str, SecondMoments]:
        found = plain(self, names, *given)
        met.extend((name, found[name].samples if name in found else 0) for name in names)
        return found

    monkeypatch.setattr(Calibration, "collect", counted)
    return met


@pytest.fixture
def fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run a command that must fail with `code`, one line on stderr, and no file made or changed; that line."""

    def run(code: int, *arguments: object) -> str:
        before = files_under(tmp_path)
        assert main([str(argument) for argument in arguments]) == code
        printed = capsys.readouterr()
        assert files_under(tmp_path) == before
        assert printed.err.startswith("mixquant-onnx: ") and printed.err.count("\n") == 1
        assert "Traceback" not in printed.err + printed.out
        return printed.err

    return run
