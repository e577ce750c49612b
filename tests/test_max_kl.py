"""The accuracy target --max-kl: the smallest file whose next token diverges little on held-out sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from token_models import token_ids, token_model

import mixquant_onnx as mq
from mixquant_onnx.accuracy.target import judge_quality
from mixquant_onnx.cli.main import main
from mixquant_onnx.config.stages import AccuracyOptions
from mixquant_onnx.errors import DataError, OptionError
from mixquant_onnx.numerics.distributions import divergence
from mixquant_onnx.report.html.run import _judged
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.verification.quality import Quality
from mixquant_onnx.verification.token_quality import Mean, TokenQuality

pytestmark = pytest.mark.usefixtures("stored_at_a_loss")

HELD = {"ids": token_ids(40, seed=1)}
REFERENCE = Session(token_model()).run(HELD)[0]


def found_at(limit: float, out: Path) -> mq.Result:
    rows = {"ids": token_ids(64)}
    return mq.quantize(token_model(), out, max_kl=limit, data=rows, eval_data=HELD, effort="fast")


def test_the_file_keeps_the_limit_and_a_stricter_one_is_larger(tmp_path: Path) -> None:
    sizes = []
    for limit in (0.2, 0.002):
        made = found_at(limit, tmp_path / f"{limit}.onnx")
        kl = divergence(REFERENCE, Session(tmp_path / f"{limit}.onnx").run(HELD)[0]).mean()
        assert 0 < kl <= limit
        best = min((t for t in made.trials if t.kept), key=lambda t: t.nbytes)
        assert best.value == pytest.approx(kl, rel=1e-3)
        assert all(t.kept == (t.value <= limit) for t in made.trials) and not all(t.kept for t in made.trials)
        assert any("480 tokens in 40 sequences: the file was chosen among" in note for note in made.notes)
        sizes.append(made.nbytes_after)
    assert sizes[0] < sizes[1]


def test_a_gate_by_divergence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(token_model(), tmp_path / "in.onnx")
    mq.quantize(tmp_path / "in.onnx", tmp_path / "out.onnx", avg_bits=5, data={"ids": token_ids(64)})
    np.savez(tmp_path / "held.npz", ids=HELD["ids"])
    kl = divergence(REFERENCE, Session(tmp_path / "out.onnx").run(HELD)[0]).mean()
    command = ["compare", str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"), "--no-benchmark"]
    command += ["--data", str(tmp_path / "held.npz"), "--max-kl"]
    assert main([*command, f"{kl * 1.01:.6f}"]) == 0
    assert f"KL {kl:.3g}" in capsys.readouterr().out
    assert main([*command, f"{kl * 0.99:.6f}"]) == 9
    assert "480 tokens in 40 sequences, not kept" in capsys.readouterr().err


def test_a_model_without_next_tokens_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixquant_onnx.run.price_all", lambda *_: pytest.fail("work began"))
    model = token_model(output="last_hidden_state")
    with pytest.raises(DataError, match="--max-kl needs a model that reads token ids"):
        mq.quantize(model, tmp_path / "out.onnx", max_kl=0.1, data={"ids": token_ids(64)})
    nothing = Quality(profile="deployed", outputs=(), accuracy_share=None)
    with pytest.raises(DataError, match="--max-kl needs"):
        judge_quality(nothing, None, AccuracyOptions(max_kl=0.1))


def test_the_limit_is_one_goal_and_at_least_zero() -> None:
    assert AccuracyOptions(max_kl=0.1).wanted and not AccuracyOptions().wanted
    with pytest.raises(OptionError, match="--max-kl exclude each other"):
        AccuracyOptions(max_kl=0.1, min_sqnr=20)
    with pytest.raises(OptionError, match="--max-kl"):
        mq.quantize(token_model(), None, max_kl=-1)


def test_a_report_shows_nats_as_a_number() -> None:
    assert _judged(0.01234, {"max_kl": 0.02}) == "0.01234" and _judged(0.5, {"min_agreement": 0.4}) == "50.00%"


def test_the_mean_itself_is_judged_not_its_error() -> None:
    tokens = TokenQuality(
        kl=Mean(value=0.1, error=0.05), top1=Mean(value=1, error=0), perplexity=None, float_perplexity=None,
        sequences=3, tokens=30,
    )  # fmt: skip
    quality = Quality(profile="deployed", outputs=(), accuracy_share=None, tokens=tokens)
    assert judge_quality(quality, None, AccuracyOptions(max_kl=0.1)) == (
        True, -0.1, "KL 0.1 ± 0.05 nats a token, 30 tokens in 3 sequences",
    )  # fmt: skip
    assert not judge_quality(quality, None, AccuracyOptions(max_kl=0.0999))[0]
