"""What differs between two plans, for reviewers."""

from __future__ import annotations

from dataclasses import dataclass

from mixquant_onnx.planning.plan import Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanDifference:
    """Differences, each as text of the first plan and of the second; "float" for a weight that is not quantized.

    Attributes:
        settings: Options, rule and budget, by name.
        weights: Schemes by the name of the weight, in the order of the second plan.
        apart: Whether the plans are of different models: neither knows a weight that the other one quantizes.
    """

    settings: dict[str, tuple[str, str]]
    weights: dict[str, tuple[str, str]]
    apart: bool = False

    @property
    def empty(self) -> bool:
        """Whether the plans are the same."""
        return not self.settings and not self.weights


def difference(first: Plan, second: Plan) -> PlanDifference:
    """Compare two plans.

    Args:
        first: The plan before.
        second: The plan after.

    Returns:
        What differs; reasons of skipped tensors do not count.
    """
    one, other = ({"rule or budget": plan.allocator, **plan.settings} for plan in (first, second))
    names = [*second.sites, *(name for name in first.sites if name not in second.sites)]
    schemes = {name: (_scheme(first, name), _scheme(second, name)) for name in names}
    settings = {key: (str(one.get(key, "-")), str(other.get(key, "-"))) for key in {**one, **other}}
    apart = bool(first.sites and second.sites) and not _knows(first, second) and not _knows(second, first)
    return PlanDifference(settings=_changed(settings), weights=_changed(schemes), apart=apart)


def _knows(plan: Plan, other: Plan) -> bool:
    """Whether a plan quantizes, or leaves in float, a weight that another one quantizes."""
    return any(name in plan.sites or name in plan.skipped for name in other.sites)


def _scheme(plan: Plan, name: str) -> str:
    return str(plan.sites[name]) if name in plan.sites else "float"


def _changed(pairs: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
