"""Runs with a goal: a file of a given size, or the smallest file that keeps a promise."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mixquant_onnx.allocation import (
    FLOAT_BITS,
    Priced,
    make_plan,
    plan_of_bits,
    plan_priced,
    price_all,
    user_data,
    with_data,
)
from mixquant_onnx.contest import Entry, ranked, winner
from mixquant_onnx.errors import DataError, MetricError, OptionError, PromiseError, writing
from mixquant_onnx.feeds import Data, split
from mixquant_onnx.figures import figure_of
from mixquant_onnx.graph import model_io
from mixquant_onnx.options import Options, size_limit
from mixquant_onnx.pipeline import RunResult, execute, place, size_of
from mixquant_onnx.planning import Planned, planned_with
from mixquant_onnx.progress import Progress, quiet
from mixquant_onnx.sizing import plan_of_size
from mixquant_onnx.types import Cell
from mixquant_onnx.verify import sample_count

Tell = Callable[[str], None]
"""Called with a line on what was tried."""

_PROBES = 10
_CLOSE = 1.03
"""Ratio of bits between what keeps the promise and what does not, at which the search ends."""

_UNIFORM = "uniform"
"""Not a cost, but the plan of one width for all."""

_FIRST_BITS = 4.0
_RIVALS = 2
"""Costs that go on to be judged by the promise: those that do best at the first bits."""

_MOST_BITS = 8.5


def silent(line: str) -> None:
    return None


def plan(loaded: model_io.Loaded, options: Options, progress: Progress = quiet) -> Planned:
    """What a run would write. Raises OptionError for a promise, which takes runs to keep."""
    if options.promise.wanted:
        raise OptionError("a promise (--max-drop, ...) is found by runs, not by inspect; use --avg-bits or --max-size")
    if options.max_size is None and options.avg_bits is None:
        return make_plan(loaded, options, progress)
    options = with_data(loaded, options)
    rivals = price_all(loaded, options, progress)
    if len(rivals) > 1:
        rivals.append(replace(next(p for p in rivals if p.cost == "even"), cost=_UNIFORM))
    return winner(_ranked(rivals, lambda priced: _plan_of(priced, options), options, progress), options)


def _plan_of(priced: Priced, options: Options) -> Planned:
    uniform = _uniform_plan(priced, options) if priced.cost == _UNIFORM else None
    if uniform is not None:
        return uniform
    if options.max_size is not None:
        return plan_of_size(priced, options, options.max_size)
    return plan_priced(priced, options)


def _uniform_plan(priced: Priced, options: Options) -> Planned | None:
    """All weights at the most bits that fit; None where none does. No cost sees what a second width costs a file."""
    searched = priced.searched
    loaded, table = searched.loaded, searched.table
    for bits in sorted({c.scheme.bits for errors in table.values() for c in errors.cells}, reverse=True):
        cells = {n: min((c for c in e.cells if c.scheme.bits == bits), key=_nbytes) for n, e in table.items()}
        made = planned_with(searched, {n: c.scheme for n, c in cells.items()}, options, "budget")
        if options.max_size is not None:
            fits = size_of(made, options) <= size_limit(options.max_size, loaded.nbytes)
        else:
            fits = 8 * sum(map(_nbytes, cells.values())) <= (options.avg_bits or 0) * priced.elements
        if fits:
            return made
    return None


def _nbytes(cell: Cell) -> int:
    return cell.nbytes


def _ranked(
    rivals: Sequence[Priced], make: Callable[[Priced], Planned], options: Options, progress: Progress
) -> list[Entry]:
    if len(rivals) == 1 or not isinstance(options.data, Data):
        return [Entry(priced=priced, planned=make(priced), noise=0.0) for priced in rivals[:1]]
    return ranked(rivals, make, options.data, options.rounding == "compensated", progress)


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
    searching = options
    if options.promise.judged_by_data and isinstance(options.data, Data):
        searching = replace(options, data=split(loaded.model, options.data)[0])
    rivals = price_all(loaded, searching, progress)
    first = [e.priced for e in _ranked(rivals, lambda p: plan_of_bits(p, options, _first(p)), searching, progress)]
    return _keep(first[:_RIVALS], options, output, name, progress, tell)


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


def _least(priced: Priced) -> float:
    """Bits a weight of the smallest plan."""
    return max(8 * priced.least_bytes / max(priced.elements, 1) * 1.0001, 0.01)


def _first(priced: Priced) -> float:
    return max(_FIRST_BITS, _least(priced))


def _keep(
    rivals: list[Priced], options: Options, output: Path | None, name: str, progress: Progress, tell: Tell
) -> tuple[Planned, RunResult]:
    """Bisection on bits a weight: each step is a whole run whose saved file is judged."""
    loaded = rivals[0].searched.loaded
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
        best = _smallest_kept(rivals, prober, progress)
        if best is None:
            raise PromiseError(f"{name}: no plan keeps the promise; the last tried: {prober.last}; ask for less")
        files = best.result.files
        if output is not None:
            with writing(output):
                return best.planned, replace(best.result, files=place(files, output.resolve(), loaded))
        return best.planned, replace(best.result, files=())


def _smallest_kept(rivals: list[Priced], prober: _Prober, progress: Progress) -> _Probe | None:
    """From 4 bits up or down, then between what is kept and what is not. Two costs compete until one loses."""
    least = _least(rivals[0])
    bits, low, high = _first(rivals[0]), least, float("inf")
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
