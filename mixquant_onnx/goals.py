"""Runs with a goal: a file of a given size, or the smallest file that keeps a promise."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mixquant_onnx.allocation import (
    FLOAT_BITS,
    Priced,
    by_energy,
    make_plan,
    plan_of_bits,
    plan_within,
    price,
    user_data,
    with_data,
)
from mixquant_onnx.allocators.budget import Choice
from mixquant_onnx.errors import DataError, MetricError, OptionError, PromiseError, writing
from mixquant_onnx.feeds import Data
from mixquant_onnx.figures import figure_of
from mixquant_onnx.graph import model_io
from mixquant_onnx.options import Options, size_limit
from mixquant_onnx.pipeline import RunResult, execute, place, size_of
from mixquant_onnx.planning import Planned, planned_with
from mixquant_onnx.progress import Progress, quiet
from mixquant_onnx.types import Scheme
from mixquant_onnx.verify import sample_count

Tell = Callable[[str], None]
"""Called with a line on what was tried."""

_PROBES = 10
_CLOSE = 1.03
"""Ratio of bits between what keeps the promise and what does not, at which the search ends."""

_FIRST_BITS = 4.0
_MOST_BITS = 8.5
_SIZE_TURNS = 8
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
    if options.promise.judged_by_data and not options.verify:
        raise OptionError("a promise is judged by the proof; leave --no-verify out")
    options = with_data(loaded, options)
    if not options.promise.wanted:
        planned = plan(loaded, options, progress)
        return planned, execute(planned, options, output, name, progress)
    _check_judge(loaded, options)
    return _keep(price(loaded, options, progress), options, output, name, progress, tell)


def _sized(priced: Priced, options: Options, text: str) -> Planned:
    """The least cost in a file of at most the given size. Raises OptionError naming the smallest possible size."""
    limit = size_limit(text, priced.searched.loaded.nbytes)
    choices = _with_nodes(priced, options)
    smallest = min(
        (plan_within(priced, options, by, 0) for by in (choices, priced.choices())),
        key=lambda made: size_of(made, options),
    )
    least = size_of(smallest, options)
    if least > limit:
        raise OptionError(
            f"--max-size {text} is {limit} bytes, below the smallest possible, {least} bytes; "
            f"allow fewer bits with --bits or a coarser --granularity"
        )
    best, taken = smallest, least
    for pool in (choices, None):
        if pool is None:
            widths = {scheme.bits for scheme in best.plan.sites.values()}
            pool = {n: [c for c in own if c.scheme and c.scheme.bits in widths] for n, own in choices.items()}
        target = limit - (taken - _predicted(best, choices))
        for _ in range(_SIZE_TURNS):
            found = plan_within(priced, options, pool, target)
            size, predicted = size_of(found, options), _predicted(found, choices)
            if taken < size <= limit:
                best, taken = found, size
            if taken >= _SIZE_WITHIN * limit or (size <= limit and predicted == target):
                return best
            target = predicted + limit - size
    return best


def _predicted(planned: Planned, choices: Mapping[str, Sequence[Choice]]) -> int:
    """Bytes that the sites of `choices` take under a plan, other than by making the file."""
    total = 0
    for name, own in choices.items():
        scheme = planned.plan.sites.get(name)
        stays = planned.sites[name].source.tensor.ByteSize()
        total += next((c.nbytes for c in own if c.scheme == scheme), stays)
    return total


def _with_nodes(priced: Priced, options: Options) -> dict[str, list[Choice]]:
    """The candidates with all that they add to a file: nodes, names and shapes, which differ by width."""
    searched = priced.searched
    floats = {name: searched.sites[name].source.tensor.ByteSize() for name in searched.table}
    extra: dict[int, int] = {}
    for bits in sorted({c.scheme.bits for errors in searched.table.values() for c in errors.cells}):
        cells = {n: next(c for c in e.cells if c.scheme.bits == bits) for n, e in searched.table.items()}
        schemes: dict[str, Scheme] = {name: cell.scheme for name, cell in cells.items()}
        planned = planned_with(searched, schemes, options, "budget")
        without = searched.loaded.model.ByteSize() + sum(cells[n].nbytes - floats[n] for n in planned.plan.sites)
        extra[bits] = (size_of(planned, options) - without) // max(len(planned.plan.sites), 1)
    return {
        name: [replace(c, nbytes=c.nbytes + extra[c.scheme.bits]) for c in own if c.scheme is not None]
        for name, own in priced.choices().items()
    }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Probe:
    """One whole run. `score` is what the promise is about, higher is better."""

    planned: Planned
    result: RunResult
    kept: bool
    score: float


class _Prober:
    """Runs plans of given bits in a folder, and says of each whether it keeps the promise."""

    def __init__(self, options: Options, name: str, output: Path | None, folder: Path, tell: Tell) -> None:
        self._options, self._name, self._tell, self._folder, self._output = options, name, tell, folder, output
        self.tried = 0
        self.last = ""
        self.reference: float | None = None
        self.smallest: _Probe | None = None

    def probe(self, priced: Priced, bits: float, progress: Progress) -> _Probe:
        planned = plan_of_bits(priced, self._options, bits, floats=bits > _MOST_BITS)
        result = execute(planned, self._options, self._file(), self._name, progress)
        kept, score, self.last = _judge(result, self._options, self.reference)
        self.tried += 1
        verdict = "kept" if kept else "not kept"
        self._tell(f"{bits:.2f} bits a weight, cost {priced.cost}: {result.nbytes_after} bytes, {self.last}: {verdict}")
        probe = _Probe(planned=planned, result=result, kept=kept, score=score)
        self._remember(probe)
        return probe

    def _file(self) -> Path:
        """A name in a folder of its own, where the names of data files beside the output are taken, too."""
        folder = self._folder / str(self.tried)
        with writing(self._output):
            folder.mkdir()
            if self._output is None:
                return folder / "model.onnx"
            for file in self._output.resolve().parent.glob("*.data"):
                (folder / file.name).touch()
        return folder / self._output.name

    def _remember(self, probe: _Probe) -> None:
        """The smallest file that keeps the promise stays; it is not always that of the fewest bits. Others go."""
        smaller = self.smallest is None or probe.result.nbytes_after < self.smallest.result.nbytes_after
        useless: _Probe | None = probe
        if probe.kept and smaller:
            useless, self.smallest = self.smallest, probe
        if useless is not None:
            shutil.rmtree(useless.result.files[0].parent, ignore_errors=True)


def _check_judge(loaded: model_io.Loaded, options: Options) -> None:
    """Before anything takes long: is there something to judge by? Raises DataError."""
    promise = options.promise
    if promise.metric is not None:
        return
    data = user_data(loaded, options)
    if data is None:
        raise DataError("a promise needs --data to be judged on (or --metric-command)")
    if promise.max_drop is not None and data.labels is None:
        raise DataError("--max-drop needs labels: --labels FILE, labels in --data, or --metric-command")
    check_labels(data)


def check_labels(data: object) -> None:
    """Raises DataError where data that was read has labels, but not one for each row."""
    if isinstance(data, Data) and data.labels is not None and len(data.labels) != sample_count(data):
        raise DataError(f"{len(data.labels)} labels for {sample_count(data)} rows of data; give one label a row")


def _keep(
    priced: Priced, options: Options, output: Path | None, name: str, progress: Progress, tell: Tell
) -> tuple[Planned, RunResult]:
    """Bisection on bits a weight: each step is a whole run whose saved file is judged."""
    loaded = priced.searched.loaded
    if output is not None:
        model_io.check_writable(output)
    parent = None if output is None else output.resolve().parent
    with writing(output):
        made = tempfile.TemporaryDirectory(prefix=".mixquant.", dir=parent)
    with made as folder:
        prober = _Prober(options, name, output, Path(folder), tell)
        prober.reference = _float_figure(loaded, options, Path(folder))
        if prober.reference is not None:
            tell(f"float: {loaded.nbytes} bytes, figure {prober.reference:.5g}")
        best = _smallest_kept(priced, options, prober, progress)
        if best is None:
            raise PromiseError(f"{name}: no plan keeps the promise; the last tried: {prober.last}; ask for less")
        files = best.result.files
        if output is not None:
            with writing(output):
                return best.planned, replace(best.result, files=place(files, output.resolve(), loaded))
        return best.planned, replace(best.result, files=())


def _smallest_kept(priced: Priced, options: Options, prober: _Prober, progress: Progress) -> _Probe | None:
    """From 4 bits up or down, then between what is kept and what is not. Two costs compete until one loses."""
    least = max(8 * priced.least_bytes / max(priced.elements, 1) * 1.0001, 0.01)
    bits, low, high = max(_FIRST_BITS, least), least, float("inf")
    rivals = [priced, by_energy(priced.searched)] if options.cost == "auto" and priced.cost != "energy" else [priced]
    while True:
        found, rivals = _compete(rivals, bits, prober, progress)
        low, high = (low, bits) if found.kept else (bits, high)
        if (found.kept and bits <= least * 1.001) or high / low < _CLOSE or prober.tried >= _PROBES:
            return prober.smallest
        if high < float("inf"):
            bits = max((high * low) ** 0.5, least)
        elif low >= FLOAT_BITS * 0.9:
            return prober.smallest
        elif low < _MOST_BITS * 0.999:
            bits = min(low * 1.5, _MOST_BITS)
        else:
            bits = min(low * 1.6, FLOAT_BITS * 0.95)


def _compete(rivals: list[Priced], bits: float, prober: _Prober, progress: Progress) -> tuple[_Probe, list[Priced]]:
    """The best of a probe of each rival, and those that may go on: all while all keep the promise, else the best."""
    probes = [prober.probe(one, bits, progress) for one in rivals]
    best = max(range(len(rivals)), key=lambda k: (probes[k].kept, probes[k].score))
    return probes[best], rivals if all(probe.kept for probe in probes) else [rivals[best]]


def _float_figure(loaded: model_io.Loaded, options: Options, folder: Path) -> float | None:
    if options.promise.metric is None:
        return None
    path = loaded.path
    if path is None:
        path = model_io.save(loaded.model, folder / "float.onnx", False, "float.onnx.data")[0]
    figure = figure_of(path, options.promise, options.metric_timeout)
    if figure == 0 and options.promise.max_drop and not options.promise.lower_is_better:
        raise MetricError("the float model's figure is 0, of which there is no share to lose; check the metric")
    return figure


def _judge(result: RunResult, options: Options, reference: float | None) -> tuple[bool, float, str]:
    """Whether the saved file keeps the promise, in the deployed profile; the score, higher is better; in words."""
    promise = options.promise
    if promise.metric is not None and reference is not None and promise.max_drop is not None:
        figure = figure_of(result.files[0], promise, options.metric_timeout)
        loss = (figure - reference) if promise.lower_is_better else (reference - figure)
        return loss <= promise.max_drop * abs(reference), -loss, f"figure {figure:.5g}"
    proof = result.verification
    assert proof is not None
    deployed = proof.deployed
    if deployed is None:
        raise DataError("the promise cannot be judged: the float model does not run here")
    if promise.max_drop is not None:
        if deployed.accuracy is None or proof.float_accuracy is None:
            raise DataError("--max-drop needs labels: --labels FILE, labels in --data, or --metric-command")
        if proof.float_accuracy == 0:
            raise DataError("the float model gets none of the labels held back right; check that they are its classes")
        kept = deployed.accuracy >= proof.float_accuracy * (1 - promise.max_drop)
        return kept, deployed.accuracy, f"accuracy {deployed.accuracy:.2%} (float {proof.float_accuracy:.2%})"
    if promise.min_agreement is not None:
        if deployed.top1_agreement is None:
            raise DataError("--min-agreement needs a model whose first output is [rows, classes]; use --min-sqnr")
        agreement = deployed.top1_agreement
        return agreement >= promise.min_agreement, agreement, f"agreement {agreement:.2%}"
    assert promise.min_sqnr is not None
    return deployed.sqnr_db >= promise.min_sqnr, deployed.sqnr_db, f"{deployed.sqnr_db:.1f} dB"
