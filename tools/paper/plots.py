"""Plots of the experiments, as SVG files that are the same for the same figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_FEW = 5
"""Series beyond which their names stand beside the panels, once for all."""

Point = tuple[float, float]
Panels = dict[str, dict[str, list[Point]]]
"""The points of each series of each panel."""


def add(panels: Panels, panel: str, series: str, *points: Point) -> None:
    panels.setdefault(panel, {}).setdefault(series, []).extend(points)


def draw(
    file: Path | None, panels: Panels, x: str, y: str, *, lines: bool = True,
    log: str = "", ticks: Sequence[str] = (),
) -> None:  # fmt: skip
    """One panel a model, one colour a series; `log`: the axes that are logarithmic, such as `xy`;
    `ticks`: names of x = 0, 1, .. Prints a link."""
    if file is None:
        return
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = file.stem
    mpl.rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=(4.6 * len(panels), 3.8), layout="constrained")
    axes: Any = figure.subplots(1, len(panels), squeeze=False)[0]
    beside = max(len(series) for series in panels.values()) > _FEW
    for axis, (name, series) in zip(axes, panels.items(), strict=True):
        for label, points in series.items():
            columns = list(zip(*sorted(points), strict=True)) or [(), ()]
            axis.plot(*columns, marker="o", markersize=4, linewidth=1.2 if lines else 0, alpha=0.8, label=label)
        axis.set(title=name, xlabel=x, ylabel=y)
        if "x" in log:
            axis.set_xscale("log")
        if "y" in log:
            axis.set_yscale("log")
        if ticks:
            axis.set_xticks(range(len(ticks)), labels=ticks)
        axis.grid(alpha=0.3)
        if not beside:
            axis.legend(fontsize="small")
    if beside:
        figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.savefig(file, metadata={"Date": None})
    print(f"\n![{y} against {x}]({file.name})")
