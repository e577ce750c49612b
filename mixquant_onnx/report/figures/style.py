"""What all figures share: colours, and their form in a page and in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import altair as alt

from mixquant_onnx.report.formats import shortened

COLORS = {2: "#b2182b", 3: "#d6604d", 4: "#f4a582", 5: "#c2a5cf", 6: "#92c5de", 7: "#4393c3", 8: "#2166ac"}
"""Of each width: red for few bits, blue for many; distinct for colour-blind eyes, visible on white and on black."""

GREY, YELLOW = "#888888", "#d9a521"
_FILE_WIDTH = 760
"""Pixels of a figure in a file."""

_NAMED = 30
"""Most bars with names; those of more would be too narrow for them."""

_NAME = 24
"""Most characters of the name of a bar."""

Data = TypeVar("Data", contravariant=True)
Chart = alt.Chart | alt.LayerChart | alt.FacetChart
Spec = dict[str, Any]


class Draw(Protocol[Data]):
    """Makes a chart of a summary."""

    def __call__(self, data: Data, /) -> Chart | None:
        """The chart; None where there is nothing to show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure(Generic[Data]):
    """One figure.

    Attributes:
        title: Its heading.
        text: What it shows.
        draw: Makes the chart.
        height: In pixels.
        default: Whether --plot FILE means this one.
        of_plan: Whether it has something to show before a file is written.
    """

    title: str
    text: str
    draw: Draw[Data]
    height: int = 360
    default: bool = False
    of_plan: bool = True


def values(*rows: Mapping[str, Any]) -> alt.InlineData:
    """Rows as the data of a chart."""
    return alt.InlineData(values=[dict(row) for row in rows])


def named_axis(names: Sequence[str]) -> alt.Axis:
    """The axis of bars whose place is a number.

    Args:
        names: Of the bars in order.

    Returns:
        An axis with their names, or without labels where there are too many.
    """
    if len(names) > _NAMED:
        return alt.Axis(labels=False, ticks=False, grid=False)
    # By place, as two names that are cut may be equal.
    text = f"{json.dumps(shortened(names, _NAME))}[datum.value]"
    return alt.Axis(labelExpr=text, labelAngle=-40, labelLimit=200, labelOverlap=False, grid=False)


def bits_color(title: str | None = "bits") -> alt.Color:
    """The colour of a mark by its field `bits`."""
    scale = alt.Scale(domain=list(COLORS), range=list(COLORS.values()))
    return alt.Color("bits:O", title=title, scale=scale, legend=alt.Legend(orient="top"))


def spec(figure: Figure[Data], chart: Chart, background: str | None = None, width: int | str = "container") -> Spec:
    """A chart as a Vega-Lite specification.

    Args:
        figure: Gives the height.
        chart: The chart.
        background: Its colour; None for that of the page.
        width: In pixels, or "container" for that of the page.

    Returns:
        What `json` can write. Text and lines are grey, so that they are readable on white and on black.
    """
    lines = {"gridColor": GREY, "gridOpacity": 0.25, "domainColor": GREY, "tickColor": GREY}
    text = {"labelColor": GREY, "titleColor": GREY, "labelFontSize": 12, "titleFontSize": 13}
    config = {"axis": {**lines, **text}, "legend": text, "view": {"stroke": None}, "font": "system-ui, sans-serif"}
    made: Spec = chart.to_dict()
    return {**made, "width": width, "height": figure.height, "background": background, "config": config}


def file_spec(figure: Figure[Data], chart: Chart) -> Spec:
    """A chart as a Vega-Lite specification for a file: on white, of a fixed width."""
    return spec(figure, chart, "white", _FILE_WIDTH)
