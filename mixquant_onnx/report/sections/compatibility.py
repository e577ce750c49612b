"""Section: the releases of ONNX Runtime that load the file, and its opset."""

from __future__ import annotations

from typing import TypedDict

from rich.console import Console

from mixquant_onnx.export.targets.table import target_named
from mixquant_onnx.report.inputs import Run


class Opset(TypedDict):
    """Version of the default domain before and after."""

    before: int
    after: int


class Releases(TypedDict):
    """Oldest release that loads the file, and oldest on which it is not slower than the float model."""

    loads_from: str
    not_slower_from: str


class Compatibility(TypedDict):
    """The keys of this section."""

    opset: Opset
    releases: Releases


def data(run: Run) -> Compatibility | None:
    """Opset and releases of the written model; None without one."""
    if run.result is None:
        return None
    rewritten = run.result.rewritten
    target = target_named(run.result.form.target)
    releases = target.oldest_runtime(rewritten.storages.values(), rewritten.opset[1])
    return {
        "opset": {"before": rewritten.opset[0], "after": rewritten.opset[1]},
        "releases": {"loads_from": releases.loads_from, "not_slower_from": releases.not_slower_from},
    }


def render(console: Console, data: Compatibility) -> None:
    """Print releases and opset in one line."""
    releases, opset = data["releases"], data["opset"]
    console.print(
        f"onnxruntime: loads from {releases['loads_from']}, not slower than float from {releases['not_slower_from']}"
        f"; opset {opset['before']} -> {opset['after']}"
    )
