"""The experiments compare files of the same size, and rank as the textbook does."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import ROOT

UNIFORM, RULE = "uniform", "rule"


def subject(*arguments: str) -> Any:
    subjects = importlib.import_module("paper.subjects")
    return subjects.subjects(subjects.options("x", None).parse_args(list(arguments)))[0]


@pytest.fixture(autouse=True, scope="module")
def tools() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        yield


@pytest.fixture(scope="module")
def plans() -> Any:
    return importlib.import_module("paper.plans").Plans(subject("--only", "digits_cnn"), 32)


@pytest.mark.parametrize("bits", [2.5, 3.0])
@pytest.mark.slow
def test_no_plan_takes_more_bytes_than_uniform_bits(plans: Any, bits: float) -> None:
    made = plans.at(bits, [UNIFORM, RULE, "weight-error", "network-output"])
    sizes = {name: plans.run(plan, "mse").nbytes_after for name, plan in made.items()}
    assert max(sizes.values()) == sizes[UNIFORM]
    assert min(sizes.values()) > 0.8 * sizes[UNIFORM]
    widths = {scheme.bits for scheme in made[UNIFORM].sites.values()}
    assert widths == ({3} if bits == 3 else {2, 3})


def test_a_plan_is_run_by_the_method_that_is_asked_for(plans: Any) -> None:
    plan = plans.at(3.0, [UNIFORM])[UNIFORM]
    reference = plans.one.logits(plans.one.path)
    error = {m: plans.one.figures(plans.run(plan, m).model, reference)[2] for m in ("minmax", "gptq")}
    assert error["gptq"] < 0.5 * error["minmax"]


def test_a_model_of_the_users_own_is_a_subject(tmp_path: Path) -> None:
    folder = ROOT / "models" / "digits_cnn"
    data = np.load(folder / "eval.npz")
    np.savez(tmp_path / "eval.npz", input=data["input"][:20], labels=data["labels"][:20])
    own = [
        "--own",
        str(folder / "model.onnx"),
        str(folder / "calib.npz"),
        str(tmp_path / "eval.npz"),
        "--only",
        "model",
    ]
    one = subject(*own)
    reference = one.logits(one.path)
    assert one.figures(onnx.load(one.path), reference) == ((reference.argmax(1) == one.labels).mean(), 1.0, 0.0)


def test_ranks_agree_as_in_the_textbook() -> None:
    spearman = importlib.import_module("paper.predict").spearman
    assert spearman(np.array([1.0, 5.0, 3.0]), [10.0, 500.0, 20.0]) == pytest.approx(1)
    assert spearman(np.array([1.0, 2.0, 3.0, 4.0]), [2.0, 1.0, 4.0, 3.0]) == pytest.approx(0.6)
