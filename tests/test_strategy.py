"""Where finished files take long, drafts tell where to look for the fewest bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

import mixquant_onnx as mq
from mixquant_onnx.accuracy import strategy
from mixquant_onnx.accuracy.bisection import Verdict, bisect
from mixquant_onnx.accuracy.drafts import Drafts
from mixquant_onnx.accuracy.search import Prober
from mixquant_onnx.planning.allocation import Priced

MODEL = ROOT / "models" / "digits_transformer" / "model.onnx"


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Bits of the finished files."""
    made: list[float] = []
    plain = Prober.probe

    def probe(prober: Any, priced: Priced, bits: float) -> Verdict:
        made.append(bits)
        return plain(prober, priced, bits)

    monkeypatch.setattr(Prober, "probe", probe)
    return made


@pytest.fixture
def data() -> dict[str, Any]:
    with np.load(MODEL.parent / "calib.npz") as archive:
        return {"input": archive["input"][:96]}


@pytest.mark.slow
def test_drafts_are_judged_where_finishing_takes_long(
    trials: list[float], data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drafted: list[float] = []
    plain = Drafts.probe

    def probe(drafts: Drafts, priced: Priced, bits: float) -> Verdict:
        drafted.append(bits)
        return plain(drafts, priced, bits)

    monkeypatch.setattr(Drafts, "probe", probe)
    usual = mq.quantize(MODEL, data=data, min_sqnr=20)
    assert not drafted and trials[0] == 4.0
    trials.clear()
    monkeypatch.setattr(strategy, "finishing_seconds", lambda *_: 100.0)
    guessed = mq.quantize(MODEL, data=data, min_sqnr=20)
    assert drafted and trials[0] != 4.0 and len(trials) <= 8
    for result in (usual, guessed):
        assert result.verification and result.verification.deployed
        assert (result.verification.deployed.sqnr_db or 0) >= 20
    assert guessed.nbytes_after <= 1.06 * usual.nbytes_after


@pytest.mark.slow
def test_a_metric_of_the_user_is_not_run_on_drafts(
    trials: list[float], data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[Path] = []

    def metric(path: Path) -> float:
        files.append(path)
        return float(path.stat().st_size > 30_000)

    monkeypatch.setattr(strategy, "finishing_seconds", lambda *_: 100.0)
    mq.quantize(MODEL, data=data, metric=metric, max_drop=0, verify=False)
    assert trials[0] == 4.0 and 2 <= len(files) <= len(trials) + 1


class Near:
    """What a bisection tries for one cost that is enough from some bits up."""

    def __init__(self, enough: float, guess: float | None, tries: int = 8) -> None:
        self.made: list[float] = []
        self.enough = enough
        bisect(["a"], self.judge, 2.1, guess, tries)

    def judge(self, _: str, bits: float) -> Verdict:
        self.made.append(bits)
        return Verdict(kept=bits >= self.enough, score=bits)

    @property
    def kept(self) -> Sequence[float]:
        return [bits for bits in self.made if bits >= self.enough]


@pytest.mark.parametrize("enough", [2.1, 2.6, 3.0, 3.3, 5.0, 7.9])
@pytest.mark.parametrize("off", [0.93, 1.0, 1.06])
def test_a_good_guess_takes_fewer_trials_than_none(enough: float, off: float) -> None:
    near, far = Near(enough, enough * off), Near(enough, None, 12)
    assert near.made[0] == max(enough * off, 2.1)
    assert enough <= min(near.kept) <= 1.035 * enough
    assert len(near.made) <= max(5, len(far.made) - 1)
