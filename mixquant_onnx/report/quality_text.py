"""The quality of outputs in a terminal: a table of profiles, then a line for each part of the outputs."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mixquant_onnx.report.formats import decibels, most_rows, print_rest
from mixquant_onnx.report.quality import Interval, OutputData, PartData, QualityData, ShareData

_SHOWN = 8
"""Most lines on parts of outputs; --json has all of them."""


def profiles(quality: Sequence[QualityData], float_accuracy: float | None) -> Table:
    """A table with one row per profile.

    Args:
        quality: The outputs under each profile.
        float_accuracy: Top-1 accuracy of the float model; None without labels.

    Returns:
        The table.
    """
    table = Table(box=box.SIMPLE_HEAD)
    several = any(q["mean_sqnr_db"] != q["sqnr_db"] for q in quality)
    table.add_column("profile")
    table.add_column("worst SQNR" if several else "SQNR", justify="right")
    if several:
        table.add_column("mean", justify="right")
    table.add_column("cosine", justify="right")
    table.add_column("agreement (95 %)", justify="right")
    if float_accuracy is not None:
        table.add_column(f"accuracy (float {float_accuracy:.2%})", justify="right")
    for q in quality:
        cells = [q["profile"], _sqnr(q)]
        cells += [decibels(q["mean_sqnr_db"])] if several else []
        cells += ["-" if q["cosine"] is None else f"{q['cosine']:.6f}", _share(q["agreement"])]
        cells += [_accuracy(q)] if float_accuracy is not None else []
        table.add_row(*cells)
    return table


def print_parts(outputs: Sequence[OutputData], console: Console) -> None:
    """Print a line for each part, where there are several, or where the SQNR of one alone may be misleading.

    Args:
        outputs: The outputs under one profile.
        console: Where to print.
    """
    lines = [line for output in outputs for line in _lines(output)]
    parts = sum(max(1, len(output["parts"])) for output in outputs)
    scores = any(part["scores_over_half"] is not None for output in outputs for part in output["parts"])
    labels = any(output["decisions"] == "values" for output in outputs)
    if parts < 2 and not scores and not labels:
        return
    for line in lines[: most_rows(console, _SHOWN)]:
        console.print(f"  {escape(line)}")
    print_rest(console, len(lines), "part", _SHOWN)


def _sqnr(quality: QualityData) -> str:
    if any(output["nan"] for output in quality["outputs"]):
        return "NaN"
    if any(output["changed_shapes"] for output in quality["outputs"]):
        return "shapes differ"
    return decibels(quality["sqnr_db"])


def _share(value: ShareData | None) -> str:
    """`98.70% (97.1-99.4)`; `4 of 4` for few rows."""
    if value is None or not value["count"]:
        return "-"
    if value["share"] is None:
        return f"{value['hits']} of {value['count']}"
    return f"{value['share']:.2%} ({_interval(value['interval'])})"


def _interval(interval: Interval) -> str:
    return f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}"


def _accuracy(quality: QualityData) -> str:
    if quality["accuracy"] is None or quality["accuracy_interval"] is None:
        return "-"
    return f"{quality['accuracy']:.2%} ({_interval(quality['accuracy_interval'])})"


def _lines(output: OutputData) -> list[str]:
    name = output["name"]
    if output["changed_shapes"]:
        return [f"{name}: shape differs for {output['changed_shapes']} of {output['feeds']} inputs"]
    if output["decisions"] == "values":
        return [f"{name}: {_share(output['agreement'])} values are equal"]
    return [f"{name}{part['slices']}: {_change(part, output)}" for part in output["parts"]]


def _change(part: PartData, output: OutputData) -> str:
    """SQNR and largest change of one part, and how many scores cross the threshold."""
    change = part["largest_change"]
    text = decibels(part["sqnr_db"])
    if isinstance(change, float):
        text += f", largest change {_number(change)} of values up to {_number(part['peak'])}"
    scores = part["scores_over_half"]
    if scores is not None and output["decisions"] is None:
        changed = scores["count"] - scores["hits"]
        text += f", {changed} of {scores['count']} scores above 0.5 changed" if scores["count"] else ", none above 0.5"
    return text


def _number(value: float) -> str:
    return f"{value:.0f}" if 1000 <= value < 1e7 else f"{value:.3g}"
