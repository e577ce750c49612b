"""Section: a plan that is only inspected may get more bits when it is run. It has no key in the summary."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from mixquant_onnx.planning.allocators.rules import holds_after_calibration
from mixquant_onnx.report.inputs import Run


def data(run: Run) -> Mapping[str, object] | None:
    """Empty for a plan of the safe rule without a result; None for others."""
    return {} if run.result is None and holds_after_calibration(run.plan.allocator) else None


def render(console: Console, data: Mapping[str, object]) -> None:
    """Print the remark."""
    console.print("note: a run may give weights more bits, where calibration or the outputs require them")
