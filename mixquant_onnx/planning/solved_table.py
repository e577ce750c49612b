"""Every weight at every width, quantized once for the inputs that it has in the float model.

What a layer looks like at a width does not depend on the plan it will be part of, to first order: plans are compared by
putting them together from this table, without quantizing anything again.
"""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import closing, contextmanager, nullcontext
from itertools import chain, islice
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from threadpoolctl import threadpool_limits

from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.moments import Moments, SecondMoments
from mixquant_onnx.errors import MixquantError
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.model.weights import LocatedWeight, WeightTensor, weight_values
from mixquant_onnx.numerics.scheme import QuantizedTensor, Scheme
from mixquant_onnx.planning.error_table import ErrorTable
from mixquant_onnx.planning.table_file import TableFile
from mixquant_onnx.planning.workspace import Workspace
from mixquant_onnx.quantization.methods import is_calibrated, surrogate
from mixquant_onnx.quantization.network import FEWEST_SAMPLES
from mixquant_onnx.quantization.weight import quantize_weight
from mixquant_onnx.quantization.widths import SolvedWeight, solve_widths

Task = tuple[str, WeightTensor, NDArray[np.generic], list[Scheme], SecondMoments | Moments | None]
"""Name of a weight, the weight, its values, its candidates of calibrated methods, and its inputs."""

Solution = tuple[str, SolvedWeight | None, Moments | None]
"""Name of a weight, its candidates, and its moments where it has no candidates."""


class SolvedTable:
    """The quantized candidates of all weights, read from where they are kept.

    Args:
        weights: All weights of the model by name.
        kept: The results of `solve_table`.
        compensated: Whether rounding to nearest is bias-corrected.
    """

    def __init__(self, weights: Mapping[str, LocatedWeight], kept: TableFile, compensated: bool = True) -> None:
        self._weights, self._kept, self._compensated = weights, kept, compensated
        self._summaries: dict[str, Any] = {}

    def _summary(self, name: str) -> Any:
        if name not in self._summaries:
            self._summaries[name] = self._kept.get_json("solved", name) or {}
        return self._summaries[name]

    def error(self, name: str, scheme: Scheme) -> float | None:
        """Error of a layer's output with a candidate.

        Args:
            name: The weight.
            scheme: The candidate.

        Returns:
            The mean squared error relative to the output's mean square; None where the inputs are not known.
        """
        found = self._summary(name).get("errors", {}).get(str(scheme))
        return None if found is None else float(found)

    def tensor(self, name: str, scheme: Scheme) -> QuantizedTensor:
        """A weight as quantized by a candidate.

        Args:
            name: The weight.
            scheme: The candidate; one that is not in the table is rounded now, and kept.

        Returns:
            Codes, scales and zero points.
        """
        located = self._weights[name]
        key = f"{name} {scheme}"
        found = self._kept.get_arrays("codes", key)
        if found is None:
            q = quantize_weight(located.site, weight_values(located), surrogate(scheme), self._moments(name))
            found = _arrays(q)
            self._kept.put_arrays("codes", key, found)
        site = located.site
        return QuantizedTensor(
            codes=found["codes"], scale=found["scale"], zero_point=found["zero_point"], scheme=scheme,
            layout=site.layout, dtype=site.dtype,
        )  # fmt: skip

    def tensors(self, schemes: Mapping[str, Scheme]) -> dict[str, QuantizedTensor]:
        """The weights of a plan.

        Args:
            schemes: By the name of the weight.

        Returns:
            The tensors.
        """
        return {name: self.tensor(name, scheme) for name, scheme in schemes.items()}

    def _moments(self, name: str) -> Moments | None:
        found = self._kept.get_arrays("moments", name) if self._compensated else None
        return None if found is None else Moments(mean=found["mean"], variance=found["variance"])

    @property
    def sample_weights(self) -> dict[str, float]:
        """How many samples each sample of a weight's inputs counts as, for the weights where that was chosen."""
        known = {name: self._summary(name).get("sample_weight") for name in self._weights}
        return {name: float(value) for name, value in known.items() if value is not None}


def solve_table(
    errors: ErrorTable,
    model: ModelProto,
    weights: Mapping[str, LocatedWeight],
    data: Data,
    work: Workspace,
    progress: Progress = quiet,
) -> SolvedTable:
    """Quantize every weight at every width; what is kept already is not done again.

    Args:
        errors: The candidates.
        model: The float model.
        weights: All its weights by name.
        data: Samples for calibration.
        work: Where results are kept, and how many layers are solved at the same time.
        progress: Called after each weight.

    Returns:
        The table.

    Raises:
        MixquantError: A process of joblib was killed.
        RuntimeFailure: The model does not run.
    """
    missing = [name for name in errors if work.table.get("solved", name) is None]
    done = len(errors) - len(missing)
    with closing(_solutions(errors, model, weights, data, missing, work.jobs)) as solutions:
        for name, solved, moments in solutions:
            with work.table.together():
                _keep(work.table, name, solved, moments)
            done += 1
            progress("solve layers", done, len(errors))
    return SolvedTable(weights, work.table, work.compensated)


def _solutions(
    errors: ErrorTable, model: ModelProto, weights: Mapping[str, LocatedWeight], data: Data, names: Sequence[str],
    jobs: int,
) -> Generator[Solution, None, None]:  # fmt: skip
    """Each of `names` solved, in the order of the graph, as inputs are observed."""
    if not names:
        return
    calibration = Calibration(model, {name: weights[name] for name in names}, data)

    schemes = {n: [c.scheme for c in errors[n].candidates if is_calibrated(c.scheme.method)] for n in names}
    full = frozenset(name for name in names if schemes[name])

    def tasks() -> Iterator[Task]:
        for name, inputs in calibration.observe(names, full):
            yield name, weights[name].site, weight_values(weights[name]), schemes[name], inputs

    yield from _side_by_side(tasks(), jobs)


def _side_by_side(tasks: Iterator[Task], jobs: int) -> Iterator[Solution]:
    """Each task solved, in order. Tasks are made in this thread, as many as there are jobs while as many are solved.

    Raises MixquantError where a process of joblib is killed.
    """
    # Without a number, joblib takes that of the backend which the caller has chosen, else one.
    number = None if jobs == 1 else jobs
    parallel, size = _parallel(number), joblib.effective_n_jobs(number)
    running: Iterator[Solution] = iter(())
    failure: Exception | None = None
    part: list[Any] | None = None
    try:
        while part != []:
            try:
                part = [joblib.delayed(_solve)(task) for task in islice(tasks, size)]
            except Exception as error:  # what is under way ends first: joblib does not stop cleanly just after a start
                part, failure = [], error
            # A `yield from` joblib's generator would close it before `_stop` does.
            yield from chain(running)
            with _interrupts_kept_from_workers() if parallel.return_generator else nullcontext():
                running = iter(parallel(part) if part else ())
        if failure is not None:
            raise failure
    except BrokenExecutor as error:
        raise MixquantError(
            "a process that solved layers was killed, most likely for lack of memory; use fewer --jobs"
        ) from error
    finally:
        _stop(running)


def _parallel(number: int | None) -> joblib.Parallel:
    """What runs tasks; where the caller's backend cannot return them one by one, no task is made meanwhile."""
    try:
        return joblib.Parallel(n_jobs=number, return_as="generator", pre_dispatch="all", batch_size=1)
    except ValueError:
        return joblib.Parallel(n_jobs=number, pre_dispatch="all", batch_size=1)


@contextmanager
def _interrupts_kept_from_workers() -> Iterator[None]:
    """Processes that are started in the context ignore Ctrl-C, of which each would print a traceback.

    Ignoring is inherited, and the run ends its processes itself. (A blocked signal would be too, and not be lost to the
    run meanwhile, but the standard library's resource tracker unblocks it.)
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _stop(running: Iterator[Solution]) -> None:
    """Cancel what is still running; the processes of joblib end."""
    if isinstance(running, Generator):
        with warnings.catch_warnings():
            # joblib warns of results that nobody has read: they are not wanted after an error.
            warnings.simplefilter("ignore", UserWarning)
            running.close()


def _solve(task: Task) -> Solution:
    """The candidates of one weight; its moments alone where there are no second ones, or too few samples."""
    name, site, values, schemes, inputs = task
    if isinstance(inputs, SecondMoments) and inputs.samples >= FEWEST_SAMPLES and schemes:
        with threadpool_limits(1, "blas"):
            return name, solve_widths(site, values, schemes, inputs), None
    return name, None, inputs.moments if isinstance(inputs, SecondMoments) else inputs


def _keep(table: TableFile, name: str, solved: SolvedWeight | None, moments: Moments | None) -> None:
    if moments is not None:
        table.put_arrays("moments", name, {"mean": moments.mean, "variance": moments.variance})
    if solved is None:
        table.put_json("solved", name, {})
        return
    for scheme, one in solved.candidates.items():
        table.put_arrays("codes", f"{name} {scheme}", _arrays(one.q))
    found = {str(scheme): one.error for scheme, one in solved.candidates.items()}
    table.put_json("solved", name, {"sample_weight": solved.sample_weight, "errors": found})


def _arrays(q: QuantizedTensor) -> dict[str, Any]:
    return {"codes": q.codes, "scale": q.scale, "zero_point": q.zero_point}
