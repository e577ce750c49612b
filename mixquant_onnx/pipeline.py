"""The whole run of a plan: quantize, rewrite, save under a temporary name, prove, rename."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from onnx import ModelProto

from mixquant_onnx.data.dataset import DataSplit
from mixquant_onnx.errors import DataError, UnchangedError, counted, writing
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.export.draft import rewritten_copy
from mixquant_onnx.export.encodings.sizes import model_bytes
from mixquant_onnx.export.rewrite import Rewritten
from mixquant_onnx.model import files as model_io
from mixquant_onnx.model.scratch import Scratch
from mixquant_onnx.model.tensor_data import outside_nbytes
from mixquant_onnx.planning.allocators.rules import holds_after_calibration
from mixquant_onnx.planning.bounds import quantize_plan
from mixquant_onnx.planning.cross_fit import optimism_db
from mixquant_onnx.planning.output_floor import hold_floor, with_schemes
from mixquant_onnx.planning.plan import Plan
from mixquant_onnx.planning.planned import Planned, left_float, why_unchanged, without_losses
from mixquant_onnx.quantization.methods import is_calibrated
from mixquant_onnx.quantization.network import Layers
from mixquant_onnx.result import Execution, RunResult
from mixquant_onnx.runtime.session import RuntimeFailure, Session
from mixquant_onnx.verification.benchmark import benchmark, check_time
from mixquant_onnx.verification.large import verify_large
from mixquant_onnx.verification.result import Verification
from mixquant_onnx.verification.verify import verify


def execute(
    planned: Planned, execution: Execution, output: Path | None, name: str, progress: Progress = quiet
) -> RunResult:
    """Quantize, rewrite, save and verify.

    Args:
        planned: The plan.
        execution: Samples and options of the run.
        output: where the model is written; None: nowhere.
        name: of the model, for messages.
        progress: Called during the run.

    Raises:
        UnchangedError: nothing was quantized, or the file would be no smaller.
        OutputError: the output cannot be written.
        ProofError: the written model is not what was meant.
        DataError: the rows do not fit the model or the plan's methods.
    """
    if not planned.plan.sites and not execution.checks.allow_unchanged:
        raise UnchangedError(f"{name}: {why_unchanged(planned)}")
    _check_methods(planned.plan, execution.split)
    wanted = len(planned.plan.sites)
    scratch = None if not planned.loaded.is_large else Scratch(None if output is None else output.parent)
    planned, layers = _quantized(planned, execution, progress, scratch)
    layers = replace(layers, notes=(*execution.notes, *layers.notes))
    if wanted and not layers.quantized:
        return execute(planned, execution, output, name, progress)
    model, rewritten = rewritten_copy(planned.loaded.model, planned.sites, layers.quantized, planned.form, scratch)
    size = model_bytes(model, planned.loaded.external)
    if layers.quantized and size >= planned.loaded.nbytes and planned.form.integer:
        larger = size - planned.loaded.nbytes
        note = f"the file is {larger} bytes larger than float's: roundings take more than is saved"
        layers = replace(layers, notes=(*layers.notes, note))
    elif layers.quantized and size >= planned.loaded.nbytes:
        reason = f"the quantized file would take {size} bytes, as much as the float one"
        lost = left_float(planned, dict.fromkeys(planned.plan.sites, reason))
        return execute(lost, execution, output, name, progress)
    made = _Made(planned=planned, layers=layers, model=model, rewritten=rewritten, scratch=scratch)
    check = _checker(made, execution, progress)
    if output is None:
        return _result(made, (), model.ByteSize() + outside_nbytes(model), check(model))
    with writing(output):
        return _result(made, *_write(made, check, output, progress))


def timed(result: RunResult, loaded: model_io.Loaded, execution: Execution) -> RunResult:
    """Measure time and memory of the written model and of the float one, if that was asked for.

    Args:
        result: What was written.
        loaded: The float model.
        execution: Samples and options of the run.

    Returns:
        The result, with times on one sample, with one thread and with two; or with a note why there are none.
    """
    if not execution.checks.benchmark:
        return result
    written = result.files[0] if result.files else result.model
    found = benchmark(loaded.path or loaded.float_model, written, execution.split)
    return replace(result, latency=found.times, memory=found.memory, notes=(*result.notes, *found.notes))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Made:
    """What is to be saved."""

    planned: Planned
    layers: Layers
    model: ModelProto
    rewritten: Rewritten
    scratch: Scratch | None = None


def _result(made: _Made, files: tuple[Path, ...], nbytes: int, verification: Verification | None) -> RunResult:
    planned = made.planned
    return RunResult(
        stored=made.model,
        plan=planned.plan,
        table=planned.table,
        sites=planned.sites,
        rewritten=made.rewritten,
        form=planned.form,
        verification=verification,
        nbytes_before=planned.loaded.nbytes,
        nbytes_after=nbytes,
        quantized=made.layers.quantized,
        qe=made.layers.qe,
        files=files,
        notes=made.layers.notes,
        data=(*planned.loaded.data, *(() if made.scratch is None else (made.scratch.file,))),
    )


def _quantized(
    planned: Planned, execution: Execution, progress: Progress, scratch: Scratch | None
) -> tuple[Planned, Layers]:
    """The weights, and the plan as it then is."""
    split, rounding = execution.split, execution.rounding
    fitting = None if split is None else split.fitting

    def quantize(planned: Planned) -> Layers:
        return quantize_plan(
            planned, fitting, rounding.compensated, progress, rounding, scratch=scratch, jobs=execution.jobs
        )

    return within_rule(planned, split, quantize)


def within_rule(
    planned: Planned, split: DataSplit | None, quantize: Callable[[Planned], Layers]
) -> tuple[Planned, Layers]:
    """Quantize a plan; by the safe rule some weights take more bits than was planned, with a note.

    Args:
        planned: The plan.
        split: The samples; None where there are none.
        quantize: Quantizes the weights of a plan within its error bounds.

    Returns:
        The plan as it then is, and its weights.
    """
    layers = quantize(planned)
    kept = with_schemes(planned, layers)
    widened = sum(kept.plan.sites[name] != scheme for name, scheme in planned.plan.sites.items())
    if widened:
        note = f"{counted(widened, 'weight')} got more bits than planned, so as to keep the rule as calibrated"
        layers = replace(layers, notes=(note, *layers.notes))
    held = holds_after_calibration(planned.plan.allocator)
    if held and split is not None and split.fitting.origin == "proxy":
        kept, layers = hold_floor(kept, layers, split.evaluation, quantize)
    if kept.plan.sites == planned.plan.sites:
        return kept, layers
    kept = without_losses(kept)
    return kept, layers.of(kept.plan.sites)


Check = Callable[[ModelProto | Path], Verification | None]
"""The written file, or the model where there is none -> what was verified; None where that was not asked for."""


def _checker(made: _Made, execution: Execution, progress: Progress) -> Check:
    """Verifies on the rows for evaluation."""
    if not execution.checks.verify:
        return lambda source: _timely(source, made, execution)
    planned, quantized, split = made.planned, made.layers.quantized, execution.split
    if split is None and planned.loaded.is_large:
        return _checker_of_large(made, execution, progress)
    refusal = _refusal(planned.loaded, split)
    optimism = None
    if refusal is None and split is not None and split.in_sample:
        optimism = optimism_db(planned, split, quantized, execution.rounding.compensated)

    def check(source: ModelProto | Path) -> Verification:
        _timely(source, made, execution)
        saved = model_io.load(source).model if isinstance(source, Path) else source
        return verify(
            planned.loaded, saved, planned.sites, quantized, made.rewritten, source,
            None if split is None else split.evaluation, refusal, progress,
            in_sample=split is not None and split.in_sample, optimism_db=optimism,
            advice=execution.advice,
        )  # fmt: skip

    return check


def _checker_of_large(made: _Made, execution: Execution, progress: Progress) -> Check:
    def check(source: ModelProto | Path) -> Verification:
        _timely(source, made, execution)
        loaded = model_io.load(source) if isinstance(source, Path) else None
        saved = made.model if loaded is None else loaded.model
        return verify_large(saved, made.planned.sites, made.layers.quantized, made.rewritten, source, progress)

    return check


def _timely(source: ModelProto | Path, made: _Made, execution: Execution) -> None:
    if execution.checks.max_ms is not None:
        loaded = made.planned.loaded
        check_time(execution.checks.max_ms, loaded.path or loaded.float_model, source, execution.split)


def _refusal(loaded: model_io.Loaded, split: DataSplit | None) -> str | None:
    """Why the float model does not load; None where it does, as it did if rows were made for it."""
    if split is not None and split.fitting.origin != "user":
        return None
    try:
        Session(loaded.float_model)
    except RuntimeFailure as failure:
        return str(failure)
    return None


def _check_methods(plan: Plan, split: DataSplit | None) -> None:
    """Raises DataError where `plan`, of another run, has methods that need inputs and there are none but noise."""
    if split is not None and split.fitting.origin != "noise":
        return
    for name, scheme in plan.sites.items():
        if is_calibrated(scheme.method):
            raise DataError(
                f"the plan's method for '{name}', '{scheme.method}', needs --data: what this model reads is not known, "
                f"or it does not run"
            )


def _write(
    made: _Made, check: Check, output: Path, progress: Progress
) -> tuple[tuple[Path, ...], int, Verification | None]:
    """Save beside `output` under a temporary name, verify what was saved, then rename; (files, bytes, verification)."""
    model_io.check_writable(output, model=True)
    output, loaded = output.resolve(), made.planned.loaded
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        progress("save", 0, 1)
        data_name, file = model_io.free_data_name(output), Path(folder) / output.name
        if made.layers.quantized:
            written = model_io.save(made.model, file, loaded.external, data_name)
        else:
            written = model_io.save_copy(loaded, file, data_name)
        verification = check(written[0])
        size = sum(file.stat().st_size for file in written)
        return model_io.place(written, output, loaded), size, verification
