"""The sensitivities, one row each. A budget is spent by one of them; `auto` compares several."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mixquant_onnx.config.stages import Effort
from mixquant_onnx.errors import OptionError
from mixquant_onnx.planning.sensitivity import block_output, kl, layer_output, network_output, uniform, weight_error
from mixquant_onnx.planning.sensitivity.measurement import Costs, Measure


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """One row.

    Attributes:
        measure: Gives the cost of every candidate.
        alias: An older name that the option also accepts; "" for none.
        needs_rows: Whether it is measured on samples (of the user, or proxy inputs).
        competes_by_default: Whether `auto` compares it on the user's samples, where there is the effort for it.
        runs: What it takes: no run for each weight, one or two, or one for each pair in a block.
        competes_on_proxies: Whether `auto` compares it on proxy inputs too.
        needs_tokens: Whether it is only there for models that give the distribution of a next token.
    """

    measure: Measure
    alias: str = ""
    needs_rows: bool = True
    competes_by_default: bool = True
    runs: Literal["none", "weights", "pairs"] = "none"
    competes_on_proxies: bool = False
    needs_tokens: bool = False

    def competes(self, effort: Effort) -> bool:
        """Whether `auto` compares it on the user's samples."""
        affordable = {"fast": ("none",), "normal": ("none", "weights"), "thorough": ("none", "weights", "pairs")}
        return self.competes_by_default and self.runs in affordable[effort]


WEIGHT_ERROR, UNIFORM, NETWORK_OUTPUT, KL = "weight-error", "uniform", "network-output", "kl"
BALANCED = "balanced"
"""Not a sensitivity of its own, but the geometric mean of NETWORK_OUTPUT and WEIGHT_ERROR."""

SENSITIVITIES: dict[str, Sensitivity] = {
    NETWORK_OUTPUT: Sensitivity(measure=network_output.measure, alias="output", runs="weights"),
    KL: Sensitivity(measure=kl.measure, runs="weights", needs_tokens=True),
    "block-output": Sensitivity(measure=block_output.measure, alias="block", runs="pairs"),
    "layer-output": Sensitivity(measure=layer_output.measure, alias="hessian"),
    UNIFORM: Sensitivity(measure=uniform.measure, alias="even", needs_rows=False, competes_on_proxies=True),
    WEIGHT_ERROR: Sensitivity(measure=weight_error.measure, alias="energy", needs_rows=False, competes_on_proxies=True),
}
"""By name. None is the best on every model (docs/research/accuracy.md)."""


def sensitivity_name(text: str) -> str:
    """The current name of a sensitivity.

    Args:
        text: A name, an older name or `auto`.

    Returns:
        A key of `SENSITIVITIES`, or `auto`.

    Raises:
        OptionError: There is no such sensitivity.
    """
    if text == "auto" or text in SENSITIVITIES:
        return text
    for name, row in SENSITIVITIES.items():
        if row.alias == text:
            return name
    raise OptionError(f"--cost '{text}' is not known; use auto, {', '.join(SENSITIVITIES)}")


def balanced(first: Costs, second: Costs) -> Costs:
    """The geometric mean of two costs of the same candidates.

    Measured alone, a layer seems more sensitive than it is where later layers, quantized on its changed outputs,
    compensate for it; the data-free cost ignores the network. The mean did not do badly on any model that was tested.

    Args:
        first: Costs of every candidate.
        second: Costs of the same candidates.

    Returns:
        Costs of every candidate.
    """
    return {name: {s: math.sqrt(cost * second[name][s]) for s, cost in own.items()} for name, own in first.items()}
