"""Section of a sweep: size against quality of many plans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, TypedDict, cast

from rich.console import Console
from rich.markup import escape

from mixquant_onnx.report.formats import decibels, finite, rows_text, size, table
from mixquant_onnx.report.inputs import Sweep
from mixquant_onnx.report.tokens import TokenData, lines_on_tokens, mean_text, token_data
from mixquant_onnx.report.tokens import columns as token_columns
from mixquant_onnx.report.tokens import share_text as mean_share
from mixquant_onnx.tradeoff.point import Point
from mixquant_onnx.verification.statistics import FEW_ROWS

FORMAT = 1
"""Version of the schema."""


FRONT = "no other plan is both smaller and better in SQNR"
"""What a star means."""


class PointData(TypedDict):
    """A `tradeoff.Point`. Infinite numbers are "inf" and "-inf". --csv has the figures of `tokens` in columns."""

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
    tokens: TokenData | None


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
        ratio = f"{p['nbytes'] / data['nbytes_before']:.1%}"
        made.add_row(
            "*" if p["pareto"] else "", p["setting"], size(p["nbytes"]), ratio, f"{p['average_bits']:.2f}",
            decibels(p["sqnr_db"]), agreement_text(p), share_text(p["accuracy"]),
        )  # fmt: skip
    console.print(made)
    console.print(f"* {FRONT}")
    if any(p["tokens"] for p in data["points"]):
        _print_tokens(console, data)
    for line in lines_on_quality(data):
        console.print(escape(line))


def _print_tokens(console: Console, data: Tradeoff) -> None:
    made = table("next token")
    for name in TOKEN_COLUMNS:
        made.add_column(name, justify="left" if name == TOKEN_COLUMNS[0] else "right", no_wrap=True)
    for row in token_rows(data):
        made.add_row(*row)
    console.print(made)


TOKEN_COLUMNS = ("plan", "size", "KL, nats a token", "same token", "perplexity")
"""Heads of `token_rows`."""


def token_rows(data: Tradeoff) -> list[tuple[str, ...]]:
    """The plans by their distributions of the next token, then plain int8, then float; none without such."""
    plain = data["plain_int8"]
    points = [*data["points"], *([] if plain is None else [plain])]
    found = [(p, p["tokens"]) for p in points if p["tokens"] is not None]
    rows: list[tuple[str, ...]] = [
        (p["setting"], size(p["nbytes"]), mean_text(t["kl"]), mean_share(t["top1"]), mean_text(t["perplexity"]))
        for p, t in found
    ]
    if not found:
        return []
    return [*rows, ("float", size(data["nbytes_before"]), "0", "100 %", mean_text(found[0][1]["float_perplexity"]))]


def flat(point: PointData) -> dict[str, Any]:
    """A point as a row of CSV."""
    return {**{k: v for k, v in point.items() if k != "tokens"}, **token_columns(point["tokens"])}


def agreement_text(point: PointData) -> str:
    """The share of equal decisions, "-" for too few rows or none."""
    agreement = None if point["rows"] < FEW_ROWS else point["top1_agreement"]
    return share_text(agreement)


def share_text(share: float | None) -> str:
    """A share as text, "-" for None."""
    return "-" if share is None else f"{share:.2%}"


def lines_on_quality(data: Tradeoff) -> Iterator[str]:
    """What the qualities were measured on, and what they are worth.

    Args:
        data: The plans.

    Yields:
        Sentences without a period.
    """
    rows, name = max(((p["rows"], p["data"]) for p in data["points"]), default=(0, ""))
    exact = "" if data["float_accuracy"] is None else f"; accuracy of float: {data['float_accuracy']:.2%}"
    if rows:
        yield f"quality: deployed, on {rows_text(rows, name)}{exact}"
    yield from lines_on_tokens([p["tokens"] for p in data["points"] if p["tokens"] is not None])
    if any(p["finished"] is False for p in data["points"]):
        yield (
            "these are the qualities of plans put together without the last step, in which layers make up for those "
            "before them; a run, which finishes its plan, is usually better"
        )
    if 0 < rows < FEW_ROWS:
        yield f"agreement is shown for {FEW_ROWS} rows of --data or more"


def _point(point: Point) -> PointData:
    plain = {key: finite(value) if isinstance(value, float) else value for key, value in asdict(point).items()}
    return cast(PointData, plain | {"tokens": token_data(point.tokens)})
