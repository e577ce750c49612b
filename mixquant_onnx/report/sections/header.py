"""Section: versions, options and settings of the run. It is only in the summary."""

from __future__ import annotations

from typing import Any, TypedDict

from rich.console import Console

import mixquant_onnx
from mixquant_onnx.config.given import given_values, goal_text
from mixquant_onnx.report.formats import finite
from mixquant_onnx.report.inputs import Run
from mixquant_onnx.runtime.session import version

SUMMARY_FORMAT = 1
"""Format of the summary; incremented by changes that old readers do not understand."""


class TrialData(TypedDict):
    """A trial for an accuracy target.

    `bits`: of each quantized weight; `nbytes`: of the file; `value`: what was judged, a share, decibels or the value of
    the metric, infinite numbers as "inf" and "-inf"; `kept`: whether the target is met.
    """

    bits: float
    nbytes: int
    value: float | str | None
    kept: bool


class Header(TypedDict):
    """What a run was and with what.

    `format` of the summary, `versions` of packages by name, name of the `graph`, `goal` as text (null where none was
    given), `options` that were given, by keyword, `settings` of the plan.
    """

    format: int
    versions: dict[str, str]
    graph: str
    goal: str | None
    options: dict[str, Any]
    settings: dict[str, Any]


class HeaderOfTarget(Header, total=False):
    """With the `trials`, in order, where there is an accuracy target."""

    trials: list[TrialData]


def data(run: Run) -> HeaderOfTarget:
    """The header of the summary."""
    found: HeaderOfTarget = {
        "format": SUMMARY_FORMAT,
        "versions": {"mixquant_onnx": mixquant_onnx.__version__, "onnxruntime": version()},
        "graph": run.planned.loaded.float_model.graph.name,
        "goal": goal_text(run.options),
        "options": given_values(run.options),
        "settings": dict(run.plan.settings),
    }
    trials = () if run.result is None else run.result.trials
    if trials:
        found["trials"] = [
            {"bits": one.bits, "nbytes": one.nbytes, "value": finite(one.value), "kept": one.kept} for one in trials
        ]
    return found


def render(console: Console, data: Header) -> None:
    """Print nothing: versions, options and settings are only in the summary."""
