"""One plan of a sweep: size and quality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from mixquant_onnx.data.dataset import Data
from mixquant_onnx.verification.quality import Quality
from mixquant_onnx.verification.statistics import FEW_ROWS
from mixquant_onnx.verification.token_quality import TokenQuality

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One plan.

    Attributes:
        setting: The QEM or bits that it was made for.
        nbytes: Size of its file in bytes.
        average_bits: Bits per weight, scales and zero points included.
        cost: Sum of its weights' costs.
        sqnr_db: SQNR of the outputs in dB, in the deployed profile; None if not measured.
        top1_agreement: Share of decisions equal to float's, from 0 to 1; None if not measured.
        accuracy: Top-1 accuracy, from 0 to 1; None without labels.
        rows: Samples on which the quality was measured.
        data: What these samples are: the user's, proxies or noise.
        finished: Whether the quality is that of the plan as a run finishes it, where layers make up for those before
            them, and not of the plan as put together from the table; None if not measured.
        tokens: Distributions of the next token against float's, on the user's samples; None where there are none.
        pareto: Whether no other point is both smaller and better, in SQNR or, where there is none, in cost.
    """

    setting: str
    nbytes: int
    average_bits: float
    cost: float
    sqnr_db: float | None = None
    top1_agreement: float | None = None
    accuracy: float | None = None
    rows: int = 0
    data: str = ""
    finished: bool | None = None
    tokens: TokenQuality | None = None
    pareto: bool = False


def with_quality(point: Point, deployed: Quality, data: Data, finished: bool) -> Point:
    """A point with the quality of its outputs.

    Args:
        point: The point.
        deployed: The quality in the deployed profile.
        data: The samples on which it was measured.
        finished: See `Point`.

    Returns:
        The point with its quality; shares of few samples that are not the user's are left out.
    """
    told = data.origin == "user" or data.rows >= FEW_ROWS
    return replace(
        point,
        sqnr_db=deployed.sqnr_db,
        top1_agreement=deployed.top1_agreement if told else None,
        accuracy=deployed.accuracy,
        rows=data.rows,
        data=data.name,
        finished=finished,
        tokens=deployed.tokens if data.origin == "user" else None,
    )


def marked(points: Sequence[Point]) -> list[Point]:
    """Mark the points on the Pareto front.

    Args:
        points: Points in any order.

    Returns:
        The points, smallest first; of equal ones the first is marked.
    """
    return [replace(point, pareto=best) for point, best in on_front(points, lambda p: (p.nbytes, _quality(p)))]


def on_front(items: Sequence[Item], place: Callable[[Item], tuple[int, float]]) -> list[tuple[Item, bool]]:
    """Whether each of some items is on the Pareto front: no other is both smaller and better.

    Args:
        items: The items in any order.
        place: Gives the bytes of an item, and a value of which more is better.

    Returns:
        The items, smallest first; of equal ones the first is on the front.
    """
    best, result = float("-inf"), list[tuple[Item, bool]]()
    for item in sorted(items, key=lambda one: (place(one)[0], -place(one)[1])):
        value = place(item)[1]
        result.append((item, value > best))
        best = max(best, value)
    return result


def _quality(point: Point) -> float:
    return point.sqnr_db if point.sqnr_db is not None else -point.cost
