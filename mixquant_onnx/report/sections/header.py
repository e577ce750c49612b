"""Section: versions and settings of the run. It is only in the summary."""

from __future__ import annotations

from typing import Any, TypedDict

from rich.console import Console

import mixquant_onnx
from mixquant_onnx.report.inputs import Run
from mixquant_onnx.runtime.session import version

SUMMARY_FORMAT = 1
"""Format of the summary; incremented by changes that old readers do not understand."""


class Header(TypedDict):
    """`format` of the summary, `versions` of packages by name, name of the `graph`, `settings` of the plan."""

    format: int
    versions: dict[str, str]
    graph: str
    settings: dict[str, Any]


def data(run: Run) -> Header:
    """The header of the summary."""
    return {
        "format": SUMMARY_FORMAT,
        "versions": {"mixquant_onnx": mixquant_onnx.__version__, "onnxruntime": version()},
        "graph": run.planned.loaded.float_model.graph.name,
        "settings": dict(run.plan.settings),
    }


def render(console: Console, data: Header) -> None:
    """Print nothing: versions and settings are only in the summary."""
