"""tools/peers: which of the other quantizers' files counts. Nothing here installs or downloads anything."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from conftest import ROOT


@pytest.fixture
def peer_tools(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module


def test_the_smallest_within_one_percent_counts_and_failures_never_do(peer_tools: Any) -> None:
    results = peer_tools("peer_tools.results")

    def result(mode: str, nbytes: int | None, loss: float | None) -> Any:
        figure = None if loss is None else 1 - loss
        return results.Result(peer="p", mode=mode, source="as is", nbytes=nbytes, figure=figure, loss=loss)

    exact, lossy, edge = result("exact", 500, -0.002), result("lossy", 200, 0.0101), result("edge", 400, 0.01)
    broken, crashed = result("does not load", 100, None), result("crashed", None, None)
    assert results.smallest([crashed, exact, broken, edge, lossy]) is edge
    assert results.smallest([lossy, broken, crashed]) is None
    assert results.nearest([broken, lossy, crashed, edge]) is edge
    assert results.better(lossy, edge) is edge
    assert results.better(broken, lossy) is lossy
    assert results.better(broken, crashed) is broken


@pytest.mark.parametrize(("lower", "figure", "loss"), [(False, 0.99, 0.01), (True, 2.0, 1.0), (True, 0.9, -0.1)])
def test_the_loss_knows_which_way_is_better(peer_tools: Any, lower: bool, figure: float, loss: float) -> None:
    reference = peer_tools("peer_tools.results").Float(nbytes=1000, figure=1.0, lower_is_better=lower)
    assert reference.loss(figure) == pytest.approx(loss)
    assert [reference.unchanged(n) for n in (979, 981, 1060)] == [None, "unchanged", "larger than float"]


def test_a_reason_is_one_short_line_that_a_table_can_hold(peer_tools: Any) -> None:
    reason = peer_tools("peer_tools.processes").reason
    errors = """Traceback (most recent call last):
      File "evaluate.py", line 1, in <module>
    onnxruntime.capi.state.Fail: [ONNXRuntimeError] : 1 : FAIL : Load model from /a/out.onnx failed:Node (If_0) a|b

    """
    assert reason(errors) == "Node (If_0) a/b"
    assert reason("x.errors.ValidationError: not\nthis one") == "ValidationError: not this one"
    assert len(reason("ValueError: " + "long " * 100)) <= 140
