"""The error bound of each weight by which a plan was chosen, and quantization within these bounds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mixquant_onnx.config.stages import RoundingOptions
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.export.activations import without_roundings
from mixquant_onnx.model.scratch import Scratch
from mixquant_onnx.model.weights import weight_values
from mixquant_onnx.planning.allocators.rules import holds_after_calibration, limit_of
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.planning.solved_table import SolvedTable
from mixquant_onnx.quantization.network import ErrorBound, Layers, NetworkTask, quantize_layers
from mixquant_onnx.quantization.weight import quantization_error


def bounds_of(planned: Planned) -> dict[str, ErrorBound]:
    """The error bounds of a plan.

    The rule's limit also holds after rounding: under `safe` a calibrated weight that violates it takes more bits. Under
    `paper` it does not hold, as calibrated methods minimise another error.

    Args:
        planned: The plan.

    Returns:
        Bounds by the name of the weight, without weights that have none.
    """
    found, holds = {}, holds_after_calibration(planned.plan.allocator)
    for name, scheme in planned.plan.sites.items():
        cells, limit = planned.table[name].candidates, _limit(planned, name)
        if not any(cell.scheme == scheme and cell.qe <= limit for cell in cells):
            continue
        wider = tuple(c.scheme for c in cells if c.scheme.grid == scheme.grid and c.scheme.bits > scheme.bits)
        found[name] = ErrorBound(limit=limit, wider=wider if holds else ())
    return found


def _limit(planned: Planned, name: str) -> float:
    """The QE that the rule allows a weight; infinite where the plan is not by a rule."""
    qem = float(planned.plan.settings.get("qem", np.inf))
    return limit_of(planned.plan.allocator, planned.table[name], qem)


def quantize_plan(
    planned: Planned, data: Data | None, compensated: bool, progress: Progress = quiet,
    settings: RoundingOptions | None = None, sample_weights: Mapping[str, float] | None = None,
    quick: bool = False, scratch: Scratch | None = None, jobs: int = 1,
) -> Layers:  # fmt: skip
    """Quantize the weights of a plan within its error bounds.

    Args:
        planned: The plan.
        data: Calibration data; None, or noise, for data-free methods alone.
        compensated: Whether rounding is bias-corrected where the moments of the inputs are known.
        progress: Called after each weight or stage.
        settings: Settings of block reconstruction.
        sample_weights: As `NetworkTask`.
        quick: As `NetworkTask`.
        scratch: As `NetworkTask`.
        jobs: As `NetworkTask`.

    Returns:
        The quantized weights, and notes; see `quantize_layers`.
    """
    task = NetworkTask(
        model=planned.loaded.model,
        weights=planned.sites,
        schemes=planned.plan.sites,
        bounds=bounds_of(planned),
        compensated=compensated,
        sample_weights=sample_weights or {},
        quick=quick,
        scratch=scratch,
        jobs=jobs,
        reference=None if planned.loaded.original is None else without_roundings(planned.loaded.model),
    )
    return quantize_layers(task, data, settings, progress)


def plan_from_table(planned: Planned, solved: SolvedTable) -> Layers:
    """Put the weights of a plan together from the table of solved weights, within its error bounds.

    Args:
        planned: The plan.
        solved: Every weight at every width.

    Returns:
        The weights in the order of the plan.
    """
    bounds, quantized, qe = bounds_of(planned), {}, {}
    for name, scheme in planned.plan.sites.items():
        bound = bounds.get(name, ErrorBound())
        # A weight without inputs is only rounded, which keeps the bound.
        wider = bound.wider if solved.error(name, scheme) is not None else ()
        for tried in (scheme, *wider):
            quantized[name] = solved.tensor(name, tried)
            qe[name] = quantization_error(quantized[name], weight_values(planned.sites[name]))
            if not qe[name] > bound.limit:
                break
    return Layers(quantized=quantized, qe=qe)
