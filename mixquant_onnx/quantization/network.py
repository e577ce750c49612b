"""Every weight of a plan, quantized: on its own, or in the order of the graph on inputs as they by then are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from mixquant_onnx.config.stages import RoundingOptions
from mixquant_onnx.data.calibration import Calibration, Watched
from mixquant_onnx.data.moments import SecondMoments
from mixquant_onnx.data.noise import Data
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.model.substitute import editable_copy, replace_weight
from mixquant_onnx.model.weights import LocatedSite, weight_values
from mixquant_onnx.numerics.scheme import Quantized
from mixquant_onnx.planning.allocators import safe
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.quantization.reconstruction.blockwise import Blockwise
from mixquant_onnx.quantization.weight import RECONSTRUCTED, SOLVERS, Inputs, quantization_error, quantize_weight, quick

FEWEST_SAMPLES = 16
"""Samples of its input that a layer needs for a calibrated method."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layers:
    """The quantized weights, and what the user should know of them."""

    quantized: Mapping[str, Quantized]
    notes: tuple[str, ...] = ()


Solved = tuple[dict[str, Quantized], list[str]]


def quantize_layers(
    planned: Planned, data: Data | None, compensated: bool, progress: Progress = quiet,
    settings: RoundingOptions | None = None,
) -> Layers:  # fmt: skip
    """Weights of calibrated methods one after another, the others at once; see `quantize_weight`.

    BLAS has one thread meanwhile: the products are small, and threads that wait for work take three times the CPU
    time on MobileNetV2. So results do not depend on their number either.
    """
    with threadpool_limits(1, "blas"):
        return _quantize_layers(planned, data, compensated, progress, settings)


def _quantize_layers(
    planned: Planned, data: Data | None, compensated: bool, progress: Progress, settings: RoundingOptions | None
) -> Layers:
    plan, model = planned.plan, planned.loaded.model
    sites = {name: planned.sites[name] for name in plan.sites}
    calibrated = data is not None and data.origin != "noise"
    in_turn = [n for n, scheme in plan.sites.items() if scheme.method in SOLVERS] if calibrated else []
    at_once = [name for name in plan.sites if name not in set(in_turn)]
    if not in_turn or data is None:
        inputs = Calibration(model, sites, data).moments(at_once) if data is not None and compensated else {}
        return Layers(quantized=_each(planned, at_once, inputs, progress))
    by_blocks = any(scheme.method == RECONSTRUCTED for scheme in plan.sites.values())
    calibration = Calibration(model, sites, data, hold_back=by_blocks)
    current, replaced = editable_copy(model)
    own, changed = calibration.float_inputs(), calibration.watched(current)
    stages = calibration.stages()
    blocks = Blockwise(planned, current, calibration, settings or RoundingOptions())
    quantized: dict[str, Quantized] = {}
    short: list[str] = []

    def solve(names: list[str], reference: Watched, inputs: Watched, every_feed: bool = True) -> Solved:
        """Layers that read the same value, on their own; and those of them that met too few samples."""
        wanted = [name for name in names if name in in_turn]
        seconds = calibration.in_turn(wanted, reference, inputs, every_feed)
        made, few = {}, []
        for name in names:
            found = seconds.get(name)
            known: Inputs = found
            if found is None or found.samples < FEWEST_SAMPLES:
                known = calibration.moments([name], every_feed).get(name) if compensated else None
                few += [name] if found is not None else []
            made[name] = _one(planned, name, known, by_quick=name in blocks)
            replace_weight(replaced[name], made[name])
        return made, few

    def chain(parts: list[list[str]], every_feed: bool) -> Solved:
        """The layers of a block, each on its own, from here on; nothing goes on by it."""
        reference, inputs = own.fork(), changed.fork()
        solved = [solve(part, reference, inputs, every_feed) for part in parts]
        return {n: q for made, _ in solved for n, q in made.items()}, [n for _, few in solved for n in few]

    def block_of(name: str) -> dict[str, Quantized]:
        """All layers of a block: each on its own, then together."""
        parts = [part for stage in stages if (part := [n for n in stage if n in blocks.members(name)])]
        calibration.pass_by(parts[0], changed)
        made = blocks.kept(name)
        if made is None:
            starts, few = chain(parts, every_feed=False)
            made = blocks.reconstruct(name, starts)
            if made is None:
                made, few = chain(parts, every_feed=True) if calibration.holds_back else (starts, few)
                short.extend(few)
            blocks.keep(name, made)
        for member, q in made.items():
            replace_weight(replaced[member], q)
        return made

    told = ""
    for stage in stages:
        for name in stage:
            if name in blocks and name not in quantized:
                quantized |= block_of(name)
                told = blocks.told(name)
        made, few = solve([name for name in stage if name not in quantized], own, changed)
        quantized |= made
        short += few
        calibration.pass_by([name for name in stage if name in blocks], own)
        progress(f"quantize{told}", len(quantized), len(sites))
    ordered = {name: quantized[name] for name in plan.sites}
    return Layers(quantized=ordered, notes=_notes(short, in_turn, calibration) + blocks.notes())


def _notes(short: list[str], in_turn: list[str], calibration: Calibration) -> tuple[str, ...]:
    notes = []
    if short:
        notes.append(
            f"{len(short)} layers met fewer than {FEWEST_SAMPLES} samples and are only rounded ('{short[0]}'): "
            f"give more data"
        )
    wide = [n for n in in_turn if calibration.is_too_wide(n)]
    if wide:
        notes.append(
            f"{len(wide)} wide layers are rounded by the means and variances of proxy inputs alone ('{wide[0]}'): give "
            f"--data"
        )
    unseen = [n for n in in_turn if n not in calibration.features]
    if unseen:
        notes.append(
            f"{len(unseen)} weights have no inputs to calibrate with ('{unseen[0]}'); their ranges are those of mse"
        )
    return tuple(notes)


def _each(planned: Planned, names: list[str], inputs: Mapping[str, Inputs], progress: Progress) -> dict[str, Quantized]:
    quantized: dict[str, Quantized] = {}
    for position, name in enumerate(names):
        quantized[name] = _one(planned, name, inputs.get(name))
        progress("quantize", position + 1, len(names))
    return quantized


def _one(planned: Planned, name: str, inputs: Inputs, by_quick: bool = False) -> Quantized:
    """By the method of its plan, or the quick one that stands for it.

    The rule's limit on the QE holds also after rounding: a calibrated weight that breaks it takes more bits (`safe`).
    By the letter of the paper it does not, as such a method minimises another error.
    """
    located: LocatedSite = planned.sites[name]
    scheme, errors = planned.plan.sites[name], planned.table[name]
    limit = qe_limit(planned, name)
    promised = any(cell.scheme == scheme and cell.qe <= limit for cell in errors.cells)
    calibrated = isinstance(inputs, SecondMoments)
    bound = limit if promised and not calibrated else np.inf
    weight = weight_values(located)
    wider = [c.scheme for c in errors.cells if c.scheme.grid == scheme.grid and c.scheme.bits > scheme.bits]
    while True:
        by = quick(scheme) if by_quick else scheme
        made = replace(quantize_weight(located.site, weight, by, inputs, bound), scheme=scheme)
        broken = calibrated and promised and planned.plan.allocator == SAFE and quantization_error(made, weight) > limit
        if not broken or not wider:
            return made
        scheme = wider.pop(0)


SAFE = "safe"
"""The allocator whose limits hold for calibrated weights too."""


def qe_limit(planned: Planned, name: str) -> float:
    """The QE that the rule allows the weight `name`; infinite where the plan is not the rule's."""
    errors, qem = planned.table[name], float(planned.plan.settings.get("qem", np.inf))
    if planned.plan.allocator == SAFE:
        return safe.limit_of(errors, qem)
    return qem * errors.baseline if planned.plan.allocator == "qem" else np.inf
