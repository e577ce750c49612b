"""Runs with a goal: a file of a given size, or the smallest file that keeps a promise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mixquant_onnx.allocation import FLOAT_BITS, Priced, make_plan, plan_of_bits, plan_of_bytes, price
from mixquant_onnx.errors import DataError, OptionError, PromiseError
from mixquant_onnx.figures import figure_of
from mixquant_onnx.graph import model_io
from mixquant_onnx.options import Options, size_limit
from mixquant_onnx.pipeline import RunResult, execute, place, size_of
from mixquant_onnx.planning import Planned
from mixquant_onnx.progress import Progress, quiet

Tell = Callable[[str], None]
"""Called with a line on what was tried."""

_PROBES = 9
_CLOSE = 1.03
"""Ratio of bits between what keeps the promise and what does not, at which the search ends."""

_FIRST_BITS = 4.0
_MOST_BITS = 8.5
_SIZE_TURNS = 5
_SIZE_WITHIN = 0.99


def silent(line: str) -> None:
    return None


def plan(loaded: model_io.Loaded, options: Options, progress: Progress = quiet) -> Planned:
    """What a run would write. Raises OptionError for a promise, which takes runs to keep."""
    if options.promise.wanted:
        raise OptionError("a promise (--max-drop, ...) is found by runs, not by inspect; use --avg-bits or --max-size")
    if options.max_size is None:
        return make_plan(loaded, options, progress)
    return _sized(price(loaded, options, progress), options, options.max_size)


def run(
    loaded: model_io.Loaded,
    options: Options,
    output: Path | None,
    name: str,
    progress: Progress = quiet,
    tell: Tell = silent,
) -> tuple[Planned, RunResult]:
    """Plan and execute for the goal of `options`. Raises what `make_plan` and `execute` raise, and PromiseError."""
    if not options.promise.wanted:
        planned = plan(loaded, options, progress)
        return planned, execute(planned, options, output, name, progress)
    return _keep(price(loaded, options, progress), options, output, name, progress, tell)


def _sized(priced: Priced, options: Options, text: str) -> Planned:
    """The least cost in a file of at most the given size. Raises OptionError naming the smallest possible size."""
    limit = size_limit(text, priced.searched.loaded.nbytes)
    smallest = plan_of_bytes(priced, options, 0)
    least = size_of(smallest, options)
    if least > limit:
        raise OptionError(
            f"--max-size {text} is {limit} bytes, below the smallest possible, {least} bytes; "
            f"allow fewer bits with --bits or a coarser --granularity"
        )
    best, target = smallest, limit - (least - priced.least_bytes)
    for _ in range(_SIZE_TURNS):
        found = plan_of_bytes(priced, options, target)
        size = size_of(found, options)
        if size <= limit:
            best = found
            if size >= _SIZE_WITHIN * limit:
                break
        if found.plan.sites == best.plan.sites and size <= limit and target >= priced.most_bytes:
            break
        target += limit - size
    return best


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Probe:
    planned: Planned
    result: RunResult
    kept: bool


def _keep(
    priced: Priced, options: Options, output: Path | None, name: str, progress: Progress, tell: Tell
) -> tuple[Planned, RunResult]:
    """Bisection on bits a weight: each step is a whole run whose saved file is judged."""
    promise = options.promise
    if promise.metric is None and options.data is None:
        raise DataError("a promise needs --data to be judged on (or --metric-command)")
    if promise.metric is None and not options.verify:
        raise OptionError("a promise is judged by the proof; leave --no-verify out")
    loaded = priced.searched.loaded
    best: _Probe | None = None
    least = max(8 * priced.least_bytes / max(priced.elements, 1) * 1.0001, 0.01)
    low, high = least, float("inf")
    tried = 0
    model_io.check_writable(output) if output is not None else None
    parent = None if output is None else output.resolve().parent
    with tempfile.TemporaryDirectory(prefix=".mixquant.", dir=parent) as folder:
        reference = _float_figure(loaded, options, Path(folder))
        if reference is not None:
            tell(f"float: {loaded.nbytes} bytes, figure {reference:.5g}")
        bits = max(_FIRST_BITS, least)
        while tried < _PROBES:
            place_in = Path(folder) / str(tried)
            place_in.mkdir()
            file = place_in / ("model.onnx" if output is None else output.name)
            planned = plan_of_bits(priced, options, bits, floats=bits > _MOST_BITS)
            result = execute(planned, options, file, name, progress)
            kept, words = _judge(result, options, reference)
            tried += 1
            tell(f"{bits:.2f} bits a weight: {result.nbytes_after} bytes, {words}: {'kept' if kept else 'not kept'}")
            if kept:
                best, high = _Probe(planned=planned, result=result, kept=True), bits
            else:
                low = bits
            if kept and bits <= least * 1.001:
                break
            if high == float("inf"):
                if low >= FLOAT_BITS * 0.9:
                    break
                bits = min(low * 1.5, _MOST_BITS) if low < _MOST_BITS * 0.999 else min(low * 1.6, FLOAT_BITS * 0.95)
                continue
            if high / low < _CLOSE:
                break
            bits = max((high * low) ** 0.5, least)
        if best is None:
            raise PromiseError(f"{name}: no plan keeps the promise; the best tried: {words}; ask for less")
        files = best.result.files
        if output is not None:
            files = place(files, output.resolve(), loaded)
        return best.planned, replace(best.result, files=files if output is not None else ())


def _float_figure(loaded: model_io.Loaded, options: Options, folder: Path) -> float | None:
    if options.promise.metric is None:
        return None
    path = loaded.path
    if path is None:
        path = model_io.save(loaded.model, folder / "float.onnx", False, "float.onnx.data")[0]
    return figure_of(path, options.promise, options.metric_timeout)


def _judge(result: RunResult, options: Options, reference: float | None) -> tuple[bool, str]:
    """Whether the saved file keeps the promise, in the deployed profile, and what was measured."""
    promise = options.promise
    if promise.metric is not None and reference is not None and promise.max_drop is not None:
        figure = figure_of(result.files[0], promise, options.metric_timeout)
        loss = (figure - reference) if promise.lower_is_better else (reference - figure)
        return loss <= promise.max_drop * abs(reference), f"figure {figure:.5g}"
    proof = result.verification
    assert proof is not None
    deployed = next((q for q in proof.quality if q.profile == "deployed"), None)
    if deployed is None:
        raise DataError("the promise cannot be judged: the float model does not run here")
    if promise.max_drop is not None:
        if deployed.accuracy is None or proof.float_accuracy is None:
            raise DataError("--max-drop needs labels: --labels FILE, labels in --data, or --metric-command")
        kept = deployed.accuracy >= proof.float_accuracy * (1 - promise.max_drop)
        return kept, f"accuracy {deployed.accuracy:.2%} (float {proof.float_accuracy:.2%})"
    if promise.min_agreement is not None:
        if deployed.top1_agreement is None:
            raise DataError("--min-agreement needs a model whose first output is [rows, classes]; use --min-sqnr")
        return deployed.top1_agreement >= promise.min_agreement, f"agreement {deployed.top1_agreement:.2%}"
    assert promise.min_sqnr is not None
    return deployed.sqnr_db >= promise.min_sqnr, f"{deployed.sqnr_db:.1f} dB"
