"""Which of a model's weights are quantized: patterns of names, and values that cannot be."""

from __future__ import annotations

import fnmatch

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.config.stages import SelectionOptions
from mixquant_onnx.errors import OptionError
from mixquant_onnx.model.weights import Found, LocatedWeight, weight_values


def select(found: Found, options: SelectionOptions) -> tuple[dict[str, LocatedWeight], dict[str, str]]:
    """The weights to quantize by their names, and the reason of each float tensor that is not.

    Raises:
        OptionError: a pattern matches no weight.
    """
    sites, skipped = found.sites, dict(found.skipped)
    for flag, patterns in (("--include", options.include), ("--exclude", options.exclude)):
        for pattern in patterns:
            if not any(_matches(located, pattern) for located in sites.values()):
                raise OptionError(f"{flag} '{pattern}' matches no weight; `mixquant-onnx inspect` lists their names")
    kept = {}
    for name, located in sites.items():
        if any(_matches(located, p) for p in options.exclude):
            skipped[name] = "excluded"
        elif options.include and not any(_matches(located, p) for p in options.include):
            skipped[name] = "not included"
        else:
            kept[name] = located
    return kept, skipped


def _matches(located: LocatedWeight, pattern: str) -> bool:
    names = {located.site.name, located.site.tensor, *(use.node for use in located.site.uses)}
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def float_values(located: LocatedWeight) -> NDArray[np.float32]:
    """The values of a weight as float32, contiguous; those that float32 cannot hold are Inf."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(weight_values(located), np.float32)


_SMALLEST = 1e-30
"""Weights all below this have squared errors that float32 cannot hold."""


def unusable(values: NDArray[np.float32]) -> str | None:
    """Why a weight of these values cannot be quantized; None where it can."""
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not np.isfinite([low, high]).all():
        return "holds NaN or Inf"
    largest = max(-low, high)
    return "its weights are too small for a float32 scale" if 0 < largest < _SMALLEST else None
