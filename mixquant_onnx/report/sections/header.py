"""Section: what made the summary, and with which settings. It is in the summary alone."""

from __future__ import annotations

from typing import Any, TypedDict

from rich.console import Console

import mixquant_onnx
from mixquant_onnx.report.inputs import Run
from mixquant_onnx.runtime.session import version

SUMMARY_FORMAT = 1
"""Format of the summary; a change that old readers do not understand counts it up."""


class Header(TypedDict):
    """`format` of the summary, `versions` of packages by name, `settings` of the plan."""

    format: int
    versions: dict[str, str]
    settings: dict[str, Any]


def data(run: Run) -> Header:
    """The header of the summary."""
    return {
        "format": SUMMARY_FORMAT,
        "versions": {"mixquant_onnx": mixquant_onnx.__version__, "onnxruntime": version()},
        "settings": dict(run.plan.settings),
    }


def render(console: Console, data: Header) -> None:
    """Nothing: a terminal shows what was done, not with what."""
