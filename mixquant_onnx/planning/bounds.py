"""The bound on each weight's error that a plan was chosen by, and the plan's weights quantized within it."""

from __future__ import annotations

import numpy as np

from mixquant_onnx.data.dataset import Data
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.planning.allocators.rules import holds_after_calibration, limit_of
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.quantization.network import ErrorBound, Layers, NetworkTask, quantize_layers
from mixquant_onnx.quantization.reconstruction.settings import Reconstruction


def bounds_of(planned: Planned) -> dict[str, ErrorBound]:
    """The error bound of each weight of a plan that the rule chose, by name; without those that have none.

    The rule's limit holds also after rounding: under `safe` a calibrated weight that breaks it takes more bits. By the
    letter of the paper it does not, as such a method minimises another error.
    """
    found, holds = {}, holds_after_calibration(planned.plan.allocator)
    for name, scheme in planned.plan.sites.items():
        cells, limit = planned.table[name].cells, _limit(planned, name)
        if not any(cell.scheme == scheme and cell.qe <= limit for cell in cells):
            continue
        wider = tuple(c.scheme for c in cells if c.scheme.grid == scheme.grid and c.scheme.bits > scheme.bits)
        found[name] = ErrorBound(limit=limit, wider=wider if holds else ())
    return found


def _limit(planned: Planned, name: str) -> float:
    """The QE that the rule allows the weight `name`; infinite where the plan is not the rule's."""
    qem = float(planned.plan.settings.get("qem", np.inf))
    return limit_of(planned.plan.allocator, planned.table[name], qem)


def quantize_plan(
    planned: Planned, data: Data | None, compensated: bool, progress: Progress = quiet,
    settings: Reconstruction | None = None,
) -> Layers:  # fmt: skip
    """The weights of `planned`, within its error bounds; see `quantize_layers`."""
    task = NetworkTask(
        model=planned.loaded.model,
        weights=planned.sites,
        schemes=planned.plan.sites,
        bounds=bounds_of(planned),
        compensated=compensated,
    )
    return quantize_layers(task, data, settings, progress)
