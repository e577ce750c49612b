"""The smallest file that meets an accuracy target: complete runs, each saved and evaluated."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mixquant_onnx.accuracy.bisection import Verdict
from mixquant_onnx.accuracy.drafts import plan_at
from mixquant_onnx.accuracy.external_metric import figure_of
from mixquant_onnx.accuracy.target import NO_TOKENS, judge_quality, judge_value
from mixquant_onnx.accuracy.words import choice_words, most_bits, trial_words
from mixquant_onnx.config.stages import AccuracyOptions
from mixquant_onnx.data.dataset import Data, DataSplit
from mixquant_onnx.data.outputs import reference_outputs
from mixquant_onnx.data.split import FEWEST_ROWS
from mixquant_onnx.errors import DataError, MetricError, PromiseError, UnchangedError, writing
from mixquant_onnx.model import files as model_io
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocation import Priced
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.result import RunResult
from mixquant_onnx.runtime.memory import release
from mixquant_onnx.runtime.session import RuntimeFailure, Session
from mixquant_onnx.verification.classes import check_classes, class_axes
from mixquant_onnx.verification.labels import check_classes_of, class_count
from mixquant_onnx.verification.next_tokens import token_output
from mixquant_onnx.verification.trial import Trial

RunPlan = Callable[[Planned, Path], RunResult]
"""Quantizes by a plan and writes the file."""

Tell = Callable[[str], None]
"""Called with a line about each trial."""

Search = Callable[["Prober"], None]
"""Runs trials."""


def silent(line: str) -> None:
    """A `Tell` that reports nothing."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Probe:
    """One complete run."""

    planned: Planned
    result: RunResult
    words: str


class Prober:
    """Runs plans of given bits in a folder, and evaluates whether each meets the target."""

    def __init__(self, target: AccuracyOptions, trial: RunPlan, output: Path | None, folder: Path, tell: Tell) -> None:
        self._target, self._trial, self._tell, self._folder, self._output = target, trial, tell, folder, output
        self._seen: list[tuple[Mapping[str, Scheme], Verdict]] = []
        self.last = ""
        self.trials: list[Trial] = []
        self.drafts = 0
        self.most: int | None = None
        self.reference: float | None = None
        self.smallest: _Probe | None = None
        self.no_smaller: UnchangedError | None = None

    def probe(self, priced: Priced, bits: float) -> Verdict:
        """Run the plan of a number of bits.

        Args:
            priced: Costs of the candidates.
            bits: Bits per weight.

        Returns:
            The verdict; the smallest file that meets the target is remembered.

        Raises:
            MixquantError: As `keep`.
        """
        planned = plan_at(priced, bits)
        known = next((verdict for sites, verdict in self._seen if sites == planned.plan.sites), None)
        if known is not None:
            return replace(known, known=True)
        try:
            result = self._trial(planned, self._file())
        except UnchangedError as error:
            self.no_smaller = error
            self._seen.append((planned.plan.sites, Verdict(kept=True, score=float("inf"))))
            return self._seen[-1][1]
        kept, score, value, self.last = _judge(result, self._target, self.reference)
        self._tell(trial_words(result, priced.cost, self.last, kept))
        self.trials.append(Trial(bits=result.average_bits, nbytes=result.nbytes_after, value=value, kept=kept))
        self.most = most_bits(planned) or self.most
        self._remember(_Probe(planned=planned, result=result, words=self.last), kept)
        release()
        verdict = Verdict(kept=kept, score=score)
        self._seen.append((planned.plan.sites, verdict))
        return verdict

    def _file(self) -> Path:
        """A path in a new folder, where names of data files beside the output are also taken."""
        folder = self._folder / str(len(self._seen))
        with writing(self._output):
            folder.mkdir()
            if self._output is None:
                return folder / "model.onnx"
            for file in self._output.resolve().parent.glob("*.data"):
                (folder / file.name).touch()
        return folder / self._output.name

    def _remember(self, probe: _Probe, kept: bool) -> None:
        """Store the smallest file that meets the target, which need not have the fewest bits; delete others."""
        smaller = self.smallest is None or probe.result.nbytes_after < self.smallest.result.nbytes_after
        useless: _Probe | None = probe
        if kept and smaller:
            useless, self.smallest = self.smallest, probe
        if useless is not None:
            shutil.rmtree(useless.result.files[0].parent, ignore_errors=True)


def check_judge(loaded: model_io.Loaded, target: AccuracyOptions, split: DataSplit | None) -> None:
    """Check early that there are samples for evaluation, to which nothing is fitted.

    Args:
        loaded: The model.
        target: The accuracy target.
        split: The samples; None where there are none.

    Raises:
        DataError: There are no such samples, no labels, or no classes, as the target requires.
    """
    if target.metric is not None:
        return
    evaluation = None if split is None else split.evaluation
    if evaluation is None or evaluation.origin != "user":
        raise DataError("an accuracy target needs --data or --eval-data to be judged on (or --metric-command)")
    if split is not None and split.in_sample:
        raise DataError(
            f"an accuracy target needs rows that nothing is fitted to: {split.reason}; give others with --eval-data or "
            f"in --data at least {FEWEST_ROWS} rows (several .npz files, where a batch cannot be cut)"
        )
    if target.max_drop is not None and evaluation.labels is None:
        raise DataError("--max-drop needs labels: --labels FILE, the key labels in the .npz, or --metric-command")
    if target.min_sqnr is None:
        _check_first(loaded, evaluation, target)


def _check_first(loaded: model_io.Loaded, data: Data, target: AccuracyOptions) -> None:
    """Raise DataError where the model has no next token or no classes, or others than the labels; runs a batch."""
    model = loaded.float_model
    try:
        session = Session(model)
    except RuntimeFailure:
        return
    outputs = reference_outputs(session, replace(data, feeds=data.feeds[:1], labels=None))
    if target.max_kl is not None:
        if token_output(session, data, outputs, class_axes(model, outputs, session.outputs)) is None:
            raise DataError(NO_TOKENS)
    elif target.min_agreement is not None:
        check_classes(model, outputs, session.outputs)
    elif data.labels is not None:
        axes = class_axes(model, outputs, session.outputs)
        check_classes_of(data.labels, class_count(outputs, session.outputs, axes))


def least_bits(priced: Priced) -> float:
    """Bits per weight of the smallest plan."""
    return max(8 * priced.least_bytes / max(priced.elements, 1) * 1.0001, 0.01)


def keep(
    loaded: model_io.Loaded, target: AccuracyOptions, trial: RunPlan, search: Search, output: Path | None, name: str,
    tell: Tell,
) -> tuple[Planned, RunResult]:  # fmt: skip
    """Find the smallest file that meets the target.

    Args:
        loaded: The model.
        target: The accuracy target.
        trial: Quantizes by a plan and writes the file.
        search: Runs the trials.
        output: Where to place the file; None to write none.
        name: Name of the model, for messages.
        tell: Called with a line about each trial.

    Returns:
        The plan and the result of its run.

    Raises:
        PromiseError: No plan meets the target.
        MetricError: The metric fails.
        DataError: The target cannot be evaluated on the data.
    """
    if output is not None:
        model_io.check_writable(output, model=True)
    parent = None if output is None else output.resolve().parent
    with writing(output):
        made = tempfile.TemporaryDirectory(prefix=".mixquant.", dir=parent)
    with made as folder:
        prober = Prober(target, trial, output, Path(folder), tell)
        prober.reference = _float_figure(loaded, target, Path(folder))
        if prober.reference is not None:
            tell(f"float: {loaded.nbytes} bytes, value {prober.reference:.5g}")
        search(prober)
        best = prober.smallest
        if best is None and not prober.last and prober.no_smaller is not None:
            raise prober.no_smaller
        if best is None:
            raise _missed(prober, name)
        result = replace(best.result, trials=tuple(prober.trials))
        result = replace(result, notes=(*result.notes, *choice_words(result, best.words, prober.drafts)))
        if output is not None:
            with writing(output):
                return best.planned, replace(result, files=model_io.place(result.files, output.resolve(), loaded))
        return best.planned, replace(result, files=())


def _missed(prober: Prober, name: str) -> PromiseError:
    tried = f"{name}: no plan reaches the accuracy target; the last tried: {prober.last}"
    if prober.most is None:
        return PromiseError(f"{tried}; ask for less")
    widest = f"all quantized weights had {prober.most} bits, the most that --bits allows"
    return PromiseError(f"{tried}; {widest}: allow more, or ask for less")


def _float_figure(loaded: model_io.Loaded, target: AccuracyOptions, folder: Path) -> float | None:
    if target.metric is None:
        return None
    path = loaded.path
    if path is None:
        path = model_io.save(loaded.float_model, folder / "float.onnx", False, "float.onnx.data")[0]
    figure = figure_of(path, target)
    if figure == 0 and target.max_drop and not target.lower_is_better:
        raise MetricError("the float model's value is 0, of which there is no share to lose; check the metric")
    return figure


def _judge(result: RunResult, target: AccuracyOptions, reference: float | None) -> tuple[bool, float, float, str]:
    """Whether the saved file meets the target, in the deployed profile; its score, its value, and that as text."""
    if reference is not None:
        value = figure_of(result.files[0], target)
        kept, score, words = judge_value(value, reference, target)
        return kept, score, value, words
    proof = result.verification
    assert proof is not None
    kept, score, words = judge_quality(proof.deployed, proof.float_accuracy, target)
    return kept, score, score if target.max_kl is None else -score, words
