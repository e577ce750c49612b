"""The rules that choose the scheme of each weight by its own errors (`--rule`), one row each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mixquant_onnx.errors import check_choice
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocators import qem, safe
from mixquant_onnx.planning.error_table import ErrorRow, ErrorTable

BY_SCOPE = "qem-model"
"""The allocator of plans whose summed error is QEM times that of plain int8 (`--scope model`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One row.

    Attributes:
        allocate: (errors, QEM) -> the scheme of each weight.
        limit: (errors of a weight, QEM) -> the QE that it may have.
        allocator: Name of the rule in plans.
        holds_after_calibration: Whether the limit also holds for calibrated weights, which take more bits to meet it,
            and the outputs have a least SQNR.
    """

    allocate: Callable[[ErrorTable, float], Mapping[str, Scheme]]
    limit: Callable[[ErrorRow, float], float]
    allocator: str
    holds_after_calibration: bool = False


RULES: dict[str, Rule] = {
    "safe": Rule(allocate=safe.allocate, limit=safe.limit_of, allocator="safe", holds_after_calibration=True),
    "paper": Rule(allocate=qem.allocate, limit=qem.limit_of, allocator="qem"),
}
"""By the name in `--rule`."""


def rule(name: str) -> Rule:
    """The rule of a name.

    Args:
        name: A key of `RULES`.

    Returns:
        The rule.

    Raises:
        OptionError: There is no such rule.
    """
    check_choice("--rule", name, RULES)
    return RULES[name]


def rule_of(allocator: str) -> Rule | None:
    """The rule of a plan.

    Args:
        allocator: `Plan.allocator`.

    Returns:
        The rule; None where the plan was made for a budget.
    """
    return next((row for row in RULES.values() if row.allocator == allocator), None)


def limit_of(allocator: str, errors: ErrorRow, qem: float) -> float:
    """The QE that a plan's rule allows a weight.

    Args:
        allocator: `Plan.allocator`.
        errors: The weight.
        qem: Quantization error multiplier.

    Returns:
        The limit; infinite where the plan was made for a budget.
    """
    found = rule_of(allocator)
    return math.inf if found is None else found.limit(errors, qem)


def holds_after_calibration(allocator: str) -> bool:
    """See `Rule`; False where a plan was made for a budget."""
    found = rule_of(allocator)
    return found is not None and found.holds_after_calibration
