"""Section of a sweep: size against quality of many plans."""

from __future__ import annotations

from dataclasses import asdict
from typing import TypedDict, cast

from rich.console import Console

from mixquant_onnx.report.formats import decibels, finite, size, table
from mixquant_onnx.report.inputs import Sweep
from mixquant_onnx.tradeoff.point import Point
from mixquant_onnx.verification.statistics import FEW_ROWS

FORMAT = 1
"""Version of the schema."""


class PointData(TypedDict):
    """A `tradeoff.Point`. Infinite numbers are "inf" and "-inf"."""

    setting: str
    nbytes: int
    average_bits: float
    cost: float | str | None
    sqnr_db: float | str | None
    top1_agreement: float | None
    accuracy: float | None
    rows: int
    data: str
    finished: bool | None
    pareto: bool


class Tradeoff(TypedDict):
    """The schema of `sweep --json`.

    `points`: one per plan, smallest first; `plain_int8`: the plan that they are compared with; `nbytes_before`: bytes
    of the float model; `float_accuracy`: its accuracy, null without labels.
    """

    format: int
    nbytes_before: int
    float_accuracy: float | None
    plain_int8: PointData | None
    points: list[PointData]


def data(sweep: Sweep) -> Tradeoff:
    """The points of a sweep, and what they are compared with. --csv holds `points` alone."""
    plain = sweep.reference.plain_int8
    return {
        "format": FORMAT,
        "nbytes_before": sweep.nbytes_before,
        "float_accuracy": sweep.reference.float_accuracy,
        "plain_int8": None if plain is None else _point(plain),
        "points": [_point(point) for point in sweep.points],
    }


def render(console: Console, data: Tradeoff) -> None:
    """Print one row per plan, smallest first; a star marks the Pareto front."""
    made = table("size against quality")
    for name in ("", "plan", "size", "of input", "bits", "SQNR", "agrees", "accuracy"):
        made.add_column(name, justify="left" if name in ("plan", "") else "right", no_wrap=True)
    plain = data["plain_int8"]
    for p in data["points"] + ([] if plain is None else [plain]):
        agreement = None if p["rows"] < FEW_ROWS else p["top1_agreement"]
        shares = ["-" if share is None else f"{share:.2%}" for share in (agreement, p["accuracy"])]
        ratio = f"{p['nbytes'] / data['nbytes_before']:.1%}"
        made.add_row(
            "*" if p["pareto"] else "", p["setting"], size(p["nbytes"]), ratio, f"{p['average_bits']:.2f}",
            decibels(p["sqnr_db"]), *shares,
        )  # fmt: skip
    console.print(made)
    console.print("* no other plan is both smaller and better")
    rows, name = max(((p["rows"], p["data"]) for p in data["points"]), default=(0, ""))
    if rows:
        console.print(f"quality: deployed, on {rows} {name or 'rows'}")
    if any(p["finished"] is False for p in data["points"]):
        console.print(
            "these are the qualities of plans put together without the last step, in which layers make up for those "
            "before them; a run, which finishes its plan, is usually better",
            soft_wrap=True,
        )
    if 0 < rows < FEW_ROWS:
        console.print(f"agreement is shown for {FEW_ROWS} rows of --data or more")


def _point(point: Point) -> PointData:
    plain = {key: finite(value) if isinstance(value, float) else value for key, value in asdict(point).items()}
    return cast(PointData, plain)
