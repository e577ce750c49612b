"""How close the model is to the float one, in a terminal (rich): what was compared, on what, and what to do."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_SHOWN = 8
"""Lines on parts of outputs."""


def decibels(value: float | str | None) -> str:
    """`exact` where there is no error at all; -inf is an error without a signal."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return "exact" if value == "inf" else "no signal"
    return f"{value:.1f} dB"


def show_quality(proof: dict[str, Any], console: Console) -> None:
    """The table of profiles, the parts of the outputs where there are several, then warnings."""
    if proof["quality"]:
        console.print(escape(title(proof)))
        console.print(_profiles(proof))
        _show_parts(proof["quality"][-1]["outputs"], console)
    for line in proof["warnings"]:
        console.print(f"[bold yellow]warning:[/bold yellow] {escape(line)}")


def title(proof: dict[str, Any]) -> str:
    """What was compared with what, and what that tells."""
    count = proof["samples"]
    name = proof["data"] or "rows"
    rows = name if name[:1].isdigit() else f"{count} {name}"
    if count == 1:
        rows = rows.replace("rows of", "row of")
    text = f"against the float model, {rows}"
    if proof["origin"] == "noise":
        return f"{text}: tells that the rewrite is right, nothing of accuracy"
    if proof["origin"] == "proxy":
        text += " (not your data)"
    if proof["in_sample"]:
        text += "; in-sample: the weights were fitted to these rows"
        less = proof["optimism_db"]
        text += "" if less is None else f", expect about {less:.1f} dB less on others"
    return text


def _profiles(proof: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    several = any(q["mean_sqnr_db"] != q["sqnr_db"] for q in proof["quality"])
    table.add_column("profile")
    table.add_column("worst SQNR" if several else "SQNR", justify="right")
    if several:
        table.add_column("mean", justify="right")
    table.add_column("cosine", justify="right")
    table.add_column("agreement (95 %)", justify="right")
    if proof["float_accuracy"] is not None:
        table.add_column(f"accuracy (float {proof['float_accuracy']:.2%})", justify="right")
    for q in proof["quality"]:
        cells = [q["profile"], _sqnr(q)]
        cells += [decibels(q["mean_sqnr_db"])] if several else []
        cells += ["-" if q["cosine"] is None else f"{q['cosine']:.6f}", share(q["agreement"])]
        if proof["float_accuracy"] is not None:
            cells.append(_accuracy(q))
        table.add_row(*cells)
    return table


def _sqnr(quality: dict[str, Any]) -> str:
    if any(output["nan"] for output in quality["outputs"]):
        return "NaN"
    if any(output["changed_shapes"] for output in quality["outputs"]):
        return "shapes differ"
    return decibels(quality["sqnr_db"])


def share(value: dict[str, Any] | None) -> str:
    """`98.7 % (97.1-99.4)`; `4 of 4` from few rows."""
    if value is None or not value["count"]:
        return "-"
    if value["share"] is None:
        return f"{value['hits']} of {value['count']}"
    return f"{value['share']:.2%} ({_interval(value['interval'])})"


def _interval(interval: list[float]) -> str:
    return f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}"


def _accuracy(quality: dict[str, Any]) -> str:
    if quality["accuracy"] is None:
        return "-"
    return f"{quality['accuracy']:.2%} ({_interval(quality['accuracy_interval'])})"


def _show_parts(outputs: list[dict[str, Any]], console: Console) -> None:
    """A line for each part, where there are several or the SQNR of one may mislead."""
    lines = [line for output in outputs for line in _lines(output)]
    parts = sum(max(1, len(output["parts"])) for output in outputs)
    scores = any(part["scores_over_half"] is not None for output in outputs for part in output["parts"])
    labels = any(output["decisions"] == "values" for output in outputs)
    if parts < 2 and not scores and not labels:
        return
    for line in lines[:_SHOWN]:
        console.print(f"  {escape(line)}")
    if len(lines) > _SHOWN:
        console.print(f"  … and {len(lines) - _SHOWN} more parts (all of them in --json FILE)")


def _lines(output: dict[str, Any]) -> list[str]:
    name = output["name"]
    if output["changed_shapes"]:
        return [f"{name}: shape differs for {output['changed_shapes']} of {output['feeds']} inputs"]
    if output["decisions"] == "values":
        return [f"{name}: {share(output['agreement'])} values are equal"]
    return [f"{name}{part['slices']}: {_moved(part, output)}" for part in output["parts"]]


def _number(value: float) -> str:
    return f"{value:.0f}" if 1000 <= value < 1e7 else f"{value:.3g}"


def _moved(part: dict[str, Any], output: dict[str, Any]) -> str:
    change = part["largest_change"]
    text = decibels(part["sqnr_db"])
    if not isinstance(change, str):
        text += f", largest change {_number(change)} of values up to {_number(part['peak'])}"
    scores = part["scores_over_half"]
    if scores is not None and output["decisions"] is None:
        changed = scores["count"] - scores["hits"]
        text += f", {changed} of {scores['count']} scores above 0.5 changed" if scores["count"] else ", none above 0.5"
    return text
