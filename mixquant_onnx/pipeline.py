"""The whole run of a plan: quantize, rewrite, save under a temporary name, prove, rename."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnx import ModelProto

from mixquant_onnx.config.stages import CheckOptions, FormOptions, RoundingOptions
from mixquant_onnx.data.dataset import DataSplit
from mixquant_onnx.errors import DataError, UnchangedError, writing
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.export.draft import draft_size, rewritten_copy
from mixquant_onnx.export.encodings.sizes import bits_per_weight, model_bytes
from mixquant_onnx.export.rewrite import Rewritten
from mixquant_onnx.model import files as model_io
from mixquant_onnx.model.weights import LocatedSite, weight_values
from mixquant_onnx.numerics.scheme import Quantized
from mixquant_onnx.planning.allocators.rules import holds_after_calibration
from mixquant_onnx.planning.bounds import quantize_plan
from mixquant_onnx.planning.cross_fit import optimism_db
from mixquant_onnx.planning.error_table import ErrorTable
from mixquant_onnx.planning.output_floor import hold_floor, with_schemes
from mixquant_onnx.planning.plan import BitPlan
from mixquant_onnx.planning.planned import Planned, left_float, without_losses
from mixquant_onnx.quantization.methods import is_calibrated
from mixquant_onnx.quantization.network import Layers
from mixquant_onnx.quantization.reconstruction.settings import Reconstruction
from mixquant_onnx.quantization.weight import quantization_error
from mixquant_onnx.runtime.session import RuntimeFailure, Session
from mixquant_onnx.verification.result import Verification
from mixquant_onnx.verification.verify import verify


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunResult:
    """The model, what was decided and measured, and the proof (None where it was not asked for).

    Sizes are bytes, external data included. `qe` is that of the codes as written.
    """

    model: ModelProto
    plan: BitPlan
    table: ErrorTable
    sites: Mapping[str, LocatedSite]
    rewritten: Rewritten
    form: FormOptions
    verification: Verification | None
    nbytes_before: int
    nbytes_after: int
    qe: Mapping[str, float]
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def elements(self) -> int:
        return sum(self.sites[name].site.elements for name in self.plan.sites)

    @property
    def average_bits(self) -> float:
        """Bits for each quantized weight: codes, scales and zero points as stored."""
        return bits_per_weight(sum(self.rewritten.nbytes.values()), self.elements)


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """What becomes of a plan: `split` are the rows to fit to and to judge by, None where there are none."""

    split: DataSplit | None = None
    rounding: RoundingOptions = field(default_factory=RoundingOptions)
    checks: CheckOptions = field(default_factory=CheckOptions)


def execute(
    planned: Planned, execution: Execution, output: Path | None, name: str, progress: Progress = quiet
) -> RunResult:
    """Quantize, rewrite, save and verify.

    Args:
        output: where the model is written; None: nowhere.
        name: of the model, for messages.

    Raises:
        UnchangedError: nothing was quantized, or the file would be no smaller.
        OutputError: the output cannot be written.
        ProofError: the written model is not what was meant.
        DataError: the rows do not fit the model or the plan's methods.
    """
    plan, original = planned.plan, planned.loaded.model
    if not plan.sites and not execution.checks.allow_unchanged:
        raise UnchangedError(f"{name}: {_why_unchanged(planned)}")
    split, refusal = execution.split, _refusal(planned.loaded, execution)
    _check_methods(plan, split)
    planned, layers = _quantized(planned, execution, progress)
    if plan.sites and not layers.quantized:
        return execute(planned, execution, output, name, progress)
    plan, quantized = planned.plan, layers.quantized
    optimism = None
    if execution.checks.verify and refusal is None and split is not None and split.in_sample:
        optimism = optimism_db(planned, split, quantized, execution.rounding.compensated)
    model, rewritten = rewritten_copy(original, quantized, planned.form)
    size = model_bytes(model, planned.loaded.external)
    if quantized and size >= planned.loaded.nbytes:
        reason = f"the quantized file would take {size} bytes, as much as the float one"
        lost = left_float(planned, dict.fromkeys(plan.sites, reason))
        return execute(lost, execution, output, name, progress)
    qe = {name: quantization_error(q, weight_values(planned.sites[name])) for name, q in quantized.items()}
    proof: Verification | None = None
    if output is None:
        size = model.ByteSize()
        if execution.checks.verify:
            proof = _prove(planned, model, quantized, rewritten, model, split, refusal, optimism, progress)
        files: tuple[Path, ...] = ()
    else:
        with writing(output):
            files, size, proof = _write(
                planned, model, quantized, rewritten, output, execution, refusal, optimism, progress
            )
    return RunResult(
        model=model,
        plan=plan,
        table=planned.table,
        sites=planned.sites,
        rewritten=rewritten,
        form=planned.form,
        verification=proof,
        nbytes_before=planned.loaded.nbytes,
        nbytes_after=size,
        qe=qe,
        files=files,
        notes=layers.notes,
    )


def _quantized(planned: Planned, execution: Execution, progress: Progress) -> tuple[Planned, Layers]:
    """The weights, and the plan as it then is: by the safe rule some take more bits than was planned, with a note."""
    split, rounding = execution.split, execution.rounding
    fitting = None if split is None else split.fitting
    settings = Reconstruction(seed=rounding.seed, iterations=rounding.iterations, resume=rounding.resume)

    def quantize(planned: Planned) -> Layers:
        return quantize_plan(planned, fitting, rounding.compensated, progress, settings)

    layers = quantize(planned)
    kept = with_schemes(planned, layers)
    widened = sum(kept.plan.sites[name] != scheme for name, scheme in planned.plan.sites.items())
    if widened:
        note = f"{widened} weights got more bits than planned, so that they keep the rule as calibrated"
        layers = replace(layers, notes=(note, *layers.notes))
    held = holds_after_calibration(planned.plan.allocator)
    if held and split is not None and split.fitting.origin == "proxy":
        kept, layers = hold_floor(kept, layers, split.evaluation, quantize)
    if kept.plan.sites == planned.plan.sites:
        return kept, layers
    kept = without_losses(kept)
    return kept, replace(layers, quantized={name: layers.quantized[name] for name in kept.plan.sites})


def _prove(
    planned: Planned, saved: ModelProto, quantized: Mapping[str, Quantized], rewritten: Rewritten,
    source: ModelProto | Path, split: DataSplit | None, refusal: str | None, optimism: float | None,
    progress: Progress,
) -> Verification:  # fmt: skip
    """The proof, on the rows for evaluation."""
    return verify(
        planned.loaded.model, saved, planned.sites, quantized, rewritten, source,
        None if split is None else split.evaluation, refusal, progress,
        in_sample=split is not None and split.in_sample, optimism_db=optimism,
    )  # fmt: skip


def _refusal(loaded: model_io.Loaded, execution: Execution) -> str | None:
    """Why the float model does not load, if it does not and that is of interest."""
    split = execution.split
    if execution.checks.verify and (split is None or split.fitting.origin == "user"):
        try:
            Session(loaded.model)
        except RuntimeFailure as failure:
            return str(failure)
    return None


def _check_methods(plan: BitPlan, split: DataSplit | None) -> None:
    """Raises DataError where `plan`, of another run, has methods that need inputs and there are none but noise."""
    if split is not None and split.fitting.origin != "noise":
        return
    for name, scheme in plan.sites.items():
        if is_calibrated(scheme.method):
            raise DataError(
                f"the plan's method for '{name}', '{scheme.method}', needs --data: what this model reads is not known, "
                f"or it does not run"
            )


def _why_unchanged(planned: Planned) -> str:
    """The message of an error: what stands in the way, and what to do."""
    reasons = [planned.plan.skipped[name] for name in planned.at_a_loss] or list(planned.plan.skipped.values())
    if not reasons:
        return "nothing was quantized (the model holds no float tensor over the size limit); see mixquant-onnx inspect"
    common = max(sorted(set(reasons)), key=reasons.count)
    if planned.at_a_loss:
        return (
            f"nothing to gain ({len(reasons)} weights would make the file no smaller, most because: {common}); "
            f"use the float model (--allow-unchanged copies it), or allow fewer bits or a coarser --granularity"
        )
    most = f"{len(reasons)} float tensors were skipped, most because: {common}"
    return f"nothing was quantized ({most}); see mixquant-onnx inspect"


def _write(
    planned: Planned,
    model: ModelProto,
    quantized: Mapping[str, Quantized],
    rewritten: Rewritten,
    output: Path,
    execution: Execution,
    refusal: str | None,
    optimism: float | None,
    progress: Progress,
) -> tuple[tuple[Path, ...], int, Verification | None]:
    """Save beside `output` under a temporary name, prove what was saved, then rename."""
    model_io.check_writable(output)
    output = output.resolve()
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        progress("save", 0, 1)
        data_name = model_io.free_data_name(output)
        if quantized:
            written = model_io.save(model, Path(folder) / output.name, planned.loaded.external, data_name)
        else:
            written = model_io.save_copy(planned.loaded, Path(folder) / output.name, data_name)
        proof = None
        if execution.checks.verify:
            saved = model_io.load(written[0]).model
            proof = _prove(
                planned, saved, quantized, rewritten, written[0], execution.split, refusal, optimism, progress
            )
        size = sum(file.stat().st_size for file in written)
        return model_io.place(written, output, planned.loaded), size, proof


def size_of(planned: Planned) -> int:
    """Bytes of the file that `planned` makes."""
    return draft_size(planned.loaded, planned.sites, planned.plan.sites, planned.form)
