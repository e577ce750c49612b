"""Single figures as files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import vl_convert

from mixquant_onnx.errors import writing
from mixquant_onnx.report.figures.style import Figure, file_spec

_SCALE = 2
"""Pixels of a PNG for each pixel of the figure."""

Data = TypeVar("Data")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A figure to be written.

    Attributes:
        figure: Its name.
        path: The file, which ends in .png or .svg.
    """

    figure: str
    path: Path


def save(plot: Plot, figures: Mapping[str, Figure[Data]], data: Data) -> bool:
    """Write a figure.

    Args:
        plot: The figure and its file.
        figures: The figures by name.
        data: What they show.

    Returns:
        False where there is nothing that the figure could show, and no file.

    Raises:
        OutputError: The file cannot be written.
    """
    figure = figures[plot.figure]
    chart = figure.draw(data)
    if chart is None:
        return False
    made = file_spec(figure, chart)
    with writing(plot.path):
        if plot.path.suffix == ".svg":
            plot.path.write_text(vl_convert.vegalite_to_svg(made), encoding="utf8")
        else:
            plot.path.write_bytes(vl_convert.vegalite_to_png(made, scale=_SCALE))
    return True
