"""Labels: classes of the model, one a row, from a file or from memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from cases import Array, Fails, classifier, weight

import mixquant_onnx as mq
from mixquant_onnx import run as goals
from mixquant_onnx.verification.labels import chance_words
from mixquant_onnx.verification.statistics import share_of

ROWS = weight(96, 64)
QUICK: dict[str, Any] = {"method": "mse", "bits": 8}


def best() -> Array:
    model = classifier().SerializeToString()
    outputs: Array = np.asarray(onnxruntime.InferenceSession(model).run(None, {"x": ROWS})[0])
    return np.argsort(outputs, 1)[:, -1]


@pytest.mark.parametrize(("labels", "named"), [(np.full(96, 10), "label 10 "), (best() - 9, "label -")])
def test_labels_that_are_no_classes_of_the_model_are_named(labels: Array, named: str) -> None:
    with pytest.raises(mq.DataError, match=f"{named}.*is none of the model's 10 classes, which are 0 to 9"):
        mq.quantize(classifier(), data={"x": ROWS}, labels=labels, **QUICK)
    with pytest.raises(mq.DataError, match=named):
        mq.compare(classifier(), classifier(), data={"x": ROWS}, labels=labels, benchmark=False)


def test_they_are_refused_before_the_search_for_a_target(
    model: Path, output: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_search(*_: object, **__: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr(goals, "price_all", no_search)
    data = model.with_name("data.npz")
    np.savez(data, x=ROWS, labels=np.full(96, 12))
    assert "label 12 is none of" in fails(6, model, output, "--max-drop", "1%", "--data", data)


def warnings(labels: Any, **data: Any) -> tuple[str, ...]:
    proof = mq.quantize(classifier(), data={"x": ROWS, **data}, labels=labels, **QUICK).verification
    assert proof is not None and proof.float_accuracy is not None
    return proof.warnings


def test_labels_of_other_rows_are_warned_of() -> None:
    assert warnings(best()) == ()
    (told,) = warnings((best() + 5) % 10)
    assert re.fullmatch(r"float gets \d+ of 12 labels right, no better than chance with 10 classes: .*", told)
    notes = mq.compare(classifier(), classifier(), data={"x": ROWS}, labels=(best() + 5) % 10, benchmark=False).notes
    assert any("no better than chance with 10 classes" in note for note in notes)


@pytest.mark.parametrize(
    ("hits", "count", "warned"), [(2, 10, False), (1, 10, True), (30, 100, False), (12, 100, True)]
)
def test_chance_is_told_by_the_interval_unless_there_are_few_rows(hits: int, count: int, warned: bool) -> None:
    share = share_of([1] * hits + [0] * (count - hits), [1] * count)
    assert bool(chance_words(share, 10)) == warned
    assert chance_words(share, None) == chance_words(None, 10) == ()


@pytest.mark.parametrize("kind", [np.asarray, list, tuple, lambda labels: labels.astype(np.int32)[:, None]])
def test_labels_may_be_arrays(kind: Any) -> None:
    given: Sequence[int] = kind(best())
    result = mq.quantize(classifier(), data={"x": ROWS}, labels=given, **QUICK).verification
    assert result is not None and result.float_accuracy == 1
    found = mq.compare(classifier(), classifier(), data={"x": ROWS}, labels=given, benchmark=False).float_accuracy
    assert found is not None and found.hits == 96


def test_batches_in_memory_may_have_a_key_of_labels() -> None:
    judge = {"x": ROWS[:20], "labels": best()[:20]}
    result = mq.quantize(classifier(), data=[{"x": ROWS[20:]}], eval_data=judge, **QUICK).verification
    assert result is not None and (result.samples, result.float_accuracy) == (20, 1)


@pytest.mark.parametrize(
    ("labels", "error", "says"),
    [
        (3, mq.OptionError, "--labels takes a file, or in Python an array"),
        ({"labels": [1]}, mq.OptionError, "an array of class numbers"),
        (best().astype(np.float32), mq.DataError, "labels: labels are float32"),
        ([[1, 2], [3]], mq.DataError, "one class number a row"),
        (best()[:5], mq.DataError, "5 labels for 96 rows"),
    ],
)
def test_what_is_no_label_is_refused(labels: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        mq.quantize(classifier(), data={"x": ROWS}, labels=labels, **QUICK)
