"""A plan: the scheme of each weight, and its JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mixquant_onnx.errors import PlanError
from mixquant_onnx.numerics.scheme import Scheme


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The scheme of each weight.

    Attributes:
        sites: Schemes by the name of the weight.
        skipped: Why each other tensor stays float.
        allocator: Rule or budget by which it was made.
        settings: Options by which it was made.
    """

    sites: Mapping[str, Scheme]
    skipped: Mapping[str, str] = field(default_factory=dict)
    allocator: str = "qem"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The plan as values that `json` can write."""
        return {
            "format": 1,
            "allocator": self.allocator,
            "settings": dict(self.settings),
            "sites": {name: str(scheme) for name, scheme in self.sites.items()},
            "skipped": dict(self.skipped),
        }

    @classmethod
    def from_json(cls, data: Any) -> Plan:
        """A plan from parsed JSON.

        Args:
            data: What `json` read.

        Returns:
            The plan.

        Raises:
            PlanError: `data` is not a plan of this format.
        """
        wrong = PlanError("not a plan of mixquant-onnx (format 1); write one with --plan FILE")
        if not isinstance(data, dict) or data.get("format") != 1:
            raise wrong
        parts = [data.get("sites"), data.get("skipped", {}), data.get("settings", {})]
        if not all(isinstance(part, dict) for part in parts):
            raise wrong
        qem = parts[2].get("qem", 1.0)
        if not isinstance(qem, (int, float)) or not qem > 0:
            raise PlanError(f"the plan's setting qem is {qem!r}; it must be a positive number")
        return cls(
            sites={str(name): Scheme.parse(str(text)) for name, text in parts[0].items()},
            skipped={str(k): str(v) for k, v in parts[1].items()},
            allocator=str(data.get("allocator", "qem")),
            settings=dict(parts[2]),
        )
