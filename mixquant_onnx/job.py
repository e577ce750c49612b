"""A model with the options and samples of a run: what is read and decided before anything is measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from mixquant_onnx.config.config import Config
from mixquant_onnx.data.dataset import DataSplit
from mixquant_onnx.data.preparation import prepare
from mixquant_onnx.errors import DataError
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.export.targets.packed_kernels import holds_codes
from mixquant_onnx.model.files import Loaded
from mixquant_onnx.planning.allocators.rules import rule
from mixquant_onnx.planning.digests import digest, digest_of_feeds, digest_of_model, digest_of_source
from mixquant_onnx.planning.guard_goal import GuardGoal
from mixquant_onnx.planning.integer_model import IntegerModel, integer_model
from mixquant_onnx.planning.search import Searched, search
from mixquant_onnx.planning.sensitivity.table import SENSITIVITIES, WEIGHT_ERROR
from mixquant_onnx.planning.table_file import TableFile
from mixquant_onnx.planning.workspace import Workspace
from mixquant_onnx.quantization.methods import is_calibrated, needs_torch
from mixquant_onnx.result import Execution
from mixquant_onnx.verification.warnings import advice_of


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Job:
    """A model with the options and samples of a run.

    Attributes:
        loaded: The model.
        config: The options.
        work: The samples, and where results are kept.
        method: The method that the samples allow.
        integer: The model with rounded activations; None where no layer runs on integers.
        refused: Why none does, where that was asked for.
    """

    loaded: Loaded
    config: Config
    work: Workspace
    method: str
    integer: IntegerModel | None = None
    refused: str | None = None

    @property
    def split(self) -> DataSplit | None:
        """The samples; None where there are none."""
        return self.work.split

    @property
    def execution(self) -> Execution:
        """How plans of this run are executed."""
        return Execution(
            split=self.split,
            rounding=self.config.rounding,
            checks=self.config.checks,
            notes=self._notes,
            advice=advice_of(self.config.budget, self.config.accuracy),
            jobs=self.work.jobs,
        )

    @property
    def in_float(self) -> tuple[str, ...]:
        """Weights whose layers stay in float for the accuracy of outputs."""
        return () if self.integer is None else self.integer.in_float

    @property
    def _notes(self) -> tuple[str, ...]:
        if self.integer is not None:
            return self.integer.notes
        return () if self.refused is None else (self.refused,)

    def searched(self, progress: Progress = quiet) -> Searched:
        """Every candidate with its error.

        Args:
            progress: Called during the search.

        Returns:
            The weights and the errors of their candidates.

        Raises:
            OptionError: A pattern of names matches no weight.
        """
        config = self.config
        options = replace(config.search, method=self.method)
        estimate = not config.by_layer or (_holds(config) and is_calibrated(_wished(config)))
        made = search(
            self.loaded,
            config.selection,
            options,
            config.form,
            estimate=estimate,
            kept=self.work.root,
            jobs=self.work.jobs,
            progress=progress,
        )
        settings = dict(made.settings)
        if self.integer is not None:
            settings |= {"activations": config.activations.activations, "activation_ranges": self.integer.ranges}
            settings |= {"balance": self.integer.balance, "in_float": list(self.integer.in_float)}
            settings |= {"in_float_for_speed": list(self.integer.slow)}
            settings |= {"cpu": config.activations.cpu}
        if needs_torch(self.method):
            settings |= {"seed": config.rounding.seed, "iterations": config.rounding.iterations}
        return replace(made, settings=settings)


def open_job(loaded: Loaded, config: Config, goal: GuardGoal | None = None) -> Job:
    """Read or generate the samples of a run, once.

    Args:
        loaded: The model.
        config: The options.
        goal: When layers on integers are good enough; None for what is usual.

    Returns:
        The job.

    Raises:
        DataError: The samples do not fit the model, or options need samples and there are none.
    """
    if holds_codes(config.form) and loaded.nbytes >= _MAPPED_FROM:
        loaded = replace(loaded, external=True)
    split = prepare(
        loaded.model,
        config.data,
        selects=(not config.by_layer and config.budget.cost != WEIGHT_ERROR) or config.activations.integer,
        judges=config.accuracy.judged_by_data,
        stands_in=_needs_rows(config),
    )
    integer, refused = None, None
    if config.activations.integer:
        made = integer_model(loaded, config.selection, config.activations, split, goal)
        integer, refused = (None, made) if isinstance(made, str) else (made, None)
    if integer is not None:
        loaded = integer.loaded
        config = replace(config, form=replace(config.form, integer=config.activations.cpu))
    method = _method(config, split)
    cost = config.budget.cost
    if cost != "auto" and SENSITIVITIES[cost].needs_rows and not _calibrates(split):
        raise DataError(f"--cost {cost} needs --data: what this model reads is not known, or it does not run")
    in_float = () if integer is None else integer.in_float
    work = _workspace(loaded, config, split, method, in_float)
    return Job(loaded=loaded, config=config, work=work, method=method, integer=integer, refused=refused)


_MAPPED_FROM = 16_000_000
"""Bytes of a model from which on its weights are written outside, where least memory is asked for: ONNX Runtime maps
such a file, and else holds a copy of it beside what its kernels make of it."""


def _workspace(
    loaded: Loaded, config: Config, split: DataSplit | None, method: str, in_float: Sequence[str]
) -> Workspace:
    """Where results are kept: in --table, guarded by what they depend on, or for this run alone."""
    work, compensated = config.work, config.rounding.compensated
    root = TableFile() if work.table is None else TableFile(work.table, _made_of(loaded, config, method))
    # A table of this run alone has one section.
    section = "" if work.table is None or split is None else _rows(split)
    # An accuracy target, of which the table does not depend otherwise, leaves other layers in float.
    floats = f"{digest(json.dumps(in_float))} " if in_float else ""
    return Workspace(
        split=split,
        root=root.section(floats) if floats else root,
        table=root.section(f"{floats}{section} {compensated}"),
        effort=work.effort,
        jobs=work.jobs,
        compensated=compensated,
    )


def _made_of(loaded: Loaded, config: Config, method: str) -> dict[str, str]:
    """Digests of what all entries of a table depend on, by what messages call it."""
    options = {
        **asdict(replace(config.search, method=method)),
        **asdict(config.selection),
        **asdict(config.activations),
    }
    form = [config.form.native_types, holds_codes(config.form)]
    settings = json.dumps([options, *form, config.data.data_free], default=str, sort_keys=True)
    return {
        "model": digest_of_model(loaded),
        "data (--data)": digest_of_source(config.data.data, config.data.tokenizer is not None),
        "choice of candidates (--bits, --granularity, --method, --include, ...)": digest(settings),
        "release of mixquant-onnx": _release(),
    }


def _rows(split: DataSplit) -> str:
    """A digest of the rows that plans are made from."""
    return digest(*(digest_of_feeds(part.feeds) for part in (split.calibration, split.selection)))


def _release() -> str:
    try:
        return version("mixquant-onnx")
    except PackageNotFoundError:
        return "not installed"


def _needs_rows(config: Config) -> bool:
    """Whether anything is fitted to inputs, or compared on them."""
    held = _holds(config) and config.by_layer
    return config.checks.verify or config.rounding.compensated or is_calibrated(_wished(config)) or held


def _holds(config: Config) -> bool:
    """Whether the rule's limit holds for calibrated weights too."""
    return rule(config.budget.rule).holds_after_calibration


def _wished(config: Config) -> str:
    """The method by the options alone: `auto` is gptq where there may be samples for calibration."""
    if config.search.method != "auto":
        return config.search.method
    if config.work.effort == "thorough" and config.data.data is not None and find_spec("torch") is not None:
        return "brecq"
    if config.data.data is not None or not config.data.data_free:
        return "gptq"
    return _without_rows(config)


def _without_rows(config: Config) -> str:
    return "minmax" if config.by_layer else "mse"


def _calibrates(split: DataSplit | None) -> bool:
    return split is not None and split.fitting.origin != "noise"


def _method(config: Config, split: DataSplit | None) -> str:
    """The method of a run. Raises DataError where the requested one has no samples for calibration."""
    wished = _wished(config)
    if not is_calibrated(wished) or _calibrates(split):
        return wished
    if config.search.method != "auto":
        raise DataError(f"--method {wished} needs --data: what this model reads is not known, or it does not run")
    return _without_rows(config)
