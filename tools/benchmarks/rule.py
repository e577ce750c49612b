"""The paper's rule under a limit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocators.qem import allocate
from mixquant_onnx.planning.error_table import ErrorTable


def smallest_qem(table: ErrorTable, fits: Callable[[dict[str, Scheme]], bool], steps: int) -> dict[str, Scheme]:
    """What the rule chooses at the smallest of `steps` QEMs whose choice `fits`. Raises ValueError where none does."""
    last: dict[str, Scheme] = {}
    for qem in np.geomspace(0.3, 30000, steps):
        chosen = dict(allocate(table, float(qem)))
        if chosen != last and fits(chosen):
            return chosen
        last = chosen
    raise ValueError("no QEM makes it small enough")
