"""The cost `kl`: divergence of the next token with one weight quantized."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cases import text, weight
from token_models import token_ids, token_model

import mixquant_onnx as mq
from mixquant_onnx.config.stages import BudgetOptions, FormOptions, SearchOptions, SelectionOptions
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.split import split_data
from mixquant_onnx.errors import OptionError
from mixquant_onnx.model import files as model_io
from mixquant_onnx.model.substitute import with_weights
from mixquant_onnx.planning.allocation import plan_of_bits, price, price_all
from mixquant_onnx.planning.output_distance import Divergence
from mixquant_onnx.planning.search import Searched, search
from mixquant_onnx.planning.selection import Judge, ranked, single_rows, winner
from mixquant_onnx.planning.sensitivity.measurement import Measurement
from mixquant_onnx.planning.sensitivity.table import KL, SENSITIVITIES
from mixquant_onnx.planning.workspace import Workspace
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.verification.next_tokens import TokenOutput

pytestmark = pytest.mark.usefixtures("stored_at_a_loss")

MODEL = token_model()
SPLIT = split_data(MODEL, Data(feeds=({"ids": token_ids(64)},), labels=None), wants_selection=True)


def searched() -> Searched:
    options = SearchOptions(method="gptq")
    return search(model_io.as_loaded(MODEL), SelectionOptions(), options, FormOptions(), estimate=True)


def kl_by_hand(reference: np.ndarray, other: np.ndarray) -> float:
    p, q = (np.exp(x.astype(np.longdouble)) for x in (reference, other))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return float((p * np.log(p / q)).sum(-1).mean())


def test_the_cost_at_the_measured_width_is_the_divergence_of_a_run() -> None:
    found, work = searched(), Workspace(split=SPLIT)
    measured = Measurement(found.table, found.loaded.model, found.sites, work)
    costs = measured.of(SENSITIVITIES[KL].measure)
    assert set(costs) == {"embedding", "up", "down", "head"}
    feeds = SPLIT.selection.feeds
    before = np.concatenate([Session(MODEL).run(feed)[0] for feed in feeds])
    for name, own in costs.items():
        (anchor,) = measured.anchors(name)
        changed = Session(with_weights(MODEL, found.sites, {name: measured.solved.tensor(name, anchor)}))
        expected = kl_by_hand(before, np.concatenate([changed.run(feed)[0] for feed in feeds]))
        assert own[anchor] == pytest.approx(expected, rel=1e-3) and expected > 0
        assert len(set(own.values())) == len(own)


def test_a_model_without_tokens_has_no_such_cost(tmp_path: Path) -> None:
    model = text("g (float[n, 32] x, float[32, 48] w) => (float[n, 48] y) { y = MatMul(x, w) }", w=weight(32, 48))
    rows = {"x": np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)}
    with pytest.raises(OptionError, match="--cost kl needs a model that reads token ids"):
        mq.quantize(model, tmp_path / "out.onnx", avg_bits=5, cost="kl", data=rows)


def test_auto_compares_it_and_plans_are_judged_by_their_divergence() -> None:
    work = Workspace(split=SPLIT)
    rivals = price_all(searched(), "auto", work)
    assert KL in {priced.cost for priced in rivals}
    assert price(searched(), "auto", work).cost == KL
    budget = BudgetOptions(avg_bits=5)
    entries = ranked(rivals, lambda priced: plan_of_bits(priced, budget, 5), work)
    assert all(entry.in_nats for entry in entries)
    note = winner(entries, budget).notes[0]
    assert "times its KL" in note and "dB" not in note
    judge = Judge(rivals[0], work)
    planned = entries[0].planned
    tensors = judge.solved.tensors(planned.plan.sites)
    changed = Session(with_weights(MODEL, planned.sites, tensors))
    rows = single_rows(SPLIT, 32).feeds
    runs = [np.concatenate([session.run(feed)[0] for feed in rows]) for session in (Session(MODEL), changed)]
    assert judge.from_table(planned) == pytest.approx(kl_by_hand(*runs), rel=1e-3)


def test_of_many_logits_some_tokens_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    logits = random.standard_normal((8, 64, 16))
    other = logits + random.standard_normal(logits.shape) / 4
    found = TokenOutput(output="y", ids="ids", mask="", names=("y",))
    distance = Divergence(found=found, feeds=[{"ids": np.zeros((8, 64), np.int64)}], reference=[[logits]])
    whole = distance.mean([[other]])
    assert whole == pytest.approx(kl_by_hand(logits, other), rel=1e-6)
    assert distance.mean([[logits]]) == 0 and distance.mean([[other[:, :2]]]) == np.inf
    mask = np.ones((8, 64), np.int64)
    mask[:, 10:] = 0
    padded = replace(distance, found=replace(found, mask="m"), feeds=[{"ids": mask, "m": mask}])
    kept = kl_by_hand(logits[:, :10], other[:, :10])
    assert padded.mean([[other]]) == pytest.approx(kept, rel=1e-6)
    monkeypatch.setattr("mixquant_onnx.planning.output_distance._MOST_VALUES", logits.size // 4)
    some = distance.mean([[other]])
    assert some != whole and some == pytest.approx(whole, rel=0.2) and some == distance.mean([[other]])
    other[:, 10:] += 1e6 * np.eye(16)[0]
    assert padded.mean([[other]]) == pytest.approx(kept, rel=0.5)
