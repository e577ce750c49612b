"""Every choice of a run, checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from mixquant_onnx.data.dataset import Data, DataSplit, Origin
from mixquant_onnx.errors import OptionError, first_line
from mixquant_onnx.export.targets.forms import FormOptions
from mixquant_onnx.numerics.arrays import ALL_BITS, FloatArray
from mixquant_onnx.planning.error_table import SearchOptions
from mixquant_onnx.quantization.weight import SOLVERS

Cost = Literal["auto", "energy", "hessian", "output", "block"]
COSTS: tuple[str, ...] = get_args(Cost)

Given = Path | tuple[Mapping[str, FloatArray], ...]
"""Where rows are read from, or feeds in memory."""

Metric = Callable[[Path], float]
"""A figure for the model at a path."""

_LONGEST = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """What the file must keep. `max_drop` is a share of the float figure, `min_sqnr` in dB, `min_agreement` a share.

    `metric` is a shell command with `{model}` or a Python callable; without it max_drop is of the labels' accuracy.
    """

    max_drop: float | None = None
    min_sqnr: float | None = None
    min_agreement: float | None = None
    metric: str | Metric | None = None
    metric_key: str | None = None
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop < 1:
            raise OptionError("--max-drop takes a share of the float figure, such as 1% or 0.01")
        if self.min_agreement is not None and not 0 < self.min_agreement <= 1:
            raise OptionError("--min-agreement takes a share of rows, such as 99% or 0.99")
        if self.min_sqnr is not None and not np.isfinite(self.min_sqnr):
            raise OptionError("--min-sqnr takes decibels, such as 30")
        if sum(value is not None for value in (self.max_drop, self.min_sqnr, self.min_agreement)) > 1:
            raise OptionError("--max-drop, --min-sqnr and --min-agreement exclude each other; give one")
        if self.metric is not None and self.max_drop is None:
            raise OptionError("--metric-command needs --max-drop, such as --max-drop 1%")
        if isinstance(self.metric, str) and "{model}" not in self.metric:
            raise OptionError("--metric-command has no {model} where the file's name is to go")
        if self.metric is None and (self.metric_key is not None or self.lower_is_better):
            raise OptionError("--metric-key and --lower-is-better belong to --metric-command")

    @property
    def wanted(self) -> bool:
        return any(value is not None for value in (self.max_drop, self.min_sqnr, self.min_agreement))

    @property
    def judged_by_data(self) -> bool:
        """Whether the file is judged on rows of --data or --eval-data."""
        return self.wanted and self.metric is None


RECONSTRUCTED = "brecq"
"""The method that needs the extra `reconstruct`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstruction:
    """How blocks are reconstructed. `resume`: a folder where finished blocks are kept and looked for."""

    seed: int = 0
    iterations: int = 500
    resume: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 31:
            raise OptionError("--seed takes a number from 0 to 2147483647")
        if not 0 < self.iterations <= _LONGEST:
            raise OptionError(f"--iterations takes a number from 1 to {_LONGEST}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Every choice of a run. Patterns match tensor, site and node names (fnmatch).

    `data`: as the user gave it, until `with_data` (allocation) has read and divided it, once; or what stands in for it.
    `data_free`: nothing but noise does. `method_chosen`: the method was named, and is not to be changed.
    """

    qem: float = 2.0
    scope: Literal["layer", "model"] = "layer"
    avg_bits: float | None = None
    max_size: str | None = None
    cost: Cost = "auto"
    promise: Promise = field(default_factory=Promise)
    metric_timeout: float = 1800.0
    search: SearchOptions = field(default_factory=SearchOptions)
    form: FormOptions = field(default_factory=FormOptions)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_size: int = 256
    verify: bool = True
    data: Given | Data | DataSplit | None = None
    labels: Path | None = None
    eval_data: Given | Data | None = None
    data_free: bool = False
    rule: Literal["safe", "paper"] = "safe"
    method_chosen: bool = False
    rounding: Literal["compensated", "nearest"] = "compensated"
    reconstruction: Reconstruction = field(default_factory=Reconstruction)
    allow_unchanged: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.qem) and self.qem > 0):
            raise OptionError(f"--qem {self.qem:g} is not a positive number; 2 is a good start")
        if self.avg_bits is not None and not 2 <= self.avg_bits <= 32:
            raise OptionError(f"--avg-bits {self.avg_bits:g} is out of range; give bits a weight, such as 4.5")
        goals = (self.avg_bits is not None) + (self.max_size is not None) + self.promise.wanted
        if goals > 1:
            raise OptionError("--avg-bits, --max-size and a promise (--max-drop, ...) exclude each other; give one")
        if self.max_size is not None:
            size_limit(self.max_size, 1)
        if not 0 < self.metric_timeout <= _LONGEST:
            raise OptionError(f"--metric-timeout takes seconds, more than 0 and at most {_LONGEST}")
        if self.data_free and self.data is None:
            if self.cost in ("hessian", "output", "block"):
                raise OptionError(f"--cost {self.cost} needs --data, or proxy inputs: leave --data-free out")
            if self.search.method in SOLVERS:
                raise OptionError(
                    f"--method {self.search.method} needs --data, or proxy inputs: leave --data-free out (mse is the "
                    f"best without)"
                )
        if self.search.method == RECONSTRUCTED:
            need_torch()
        if not self.search.bits or any(b not in ALL_BITS for b in self.search.bits):
            raise OptionError("--bits takes widths from 2 to 8, such as 2-8 or 4,8")
        if self.min_size < 1:
            raise OptionError("--min-size takes a positive number of elements")
        if self.form.native_types and not set(self.search.bits) & {2, 4, 8}:
            raise OptionError("--native-types leaves no width: allow 4 or 8 with --bits")
        if self.labels is not None and self.data is None:
            raise OptionError("--labels needs --data")

    @property
    def needs_inputs(self) -> bool:
        """Whether anything is fitted to inputs, or compared on them."""
        held = self.rule == "safe" and not self.budgeted
        return self.verify or self.rounding != "nearest" or self.search.method in SOLVERS or held

    @property
    def origin(self) -> Origin | None:
        """Where the rows are from that `with_data` has read or made; None before, and where none were made."""
        return self.data.fitting.origin if isinstance(self.data, DataSplit) else None

    @property
    def compares_plans(self) -> bool:
        """Whether rows of data decide between plans: costs are measured on them, or several plans are judged."""
        return self.budgeted and self.cost != "energy"

    @property
    def budgeted(self) -> bool:
        """Whether bits are spent over the whole model, and not by the rule layer by layer."""
        return self.avg_bits is not None or self.max_size is not None or self.promise.wanted or self.scope == "model"


def need_torch() -> None:
    """Raises OptionError where the extra is not installed, or does not work."""
    if find_spec("torch") is None:
        raise OptionError(f"--method {RECONSTRUCTED} needs torch: pip install 'mixquant-onnx[reconstruct]'")
    try:
        import_module("torch")
    except (ImportError, OSError) as error:
        raise OptionError(
            f"--method {RECONSTRUCTED}: torch does not import ({first_line(error)}); "
            f"pip install 'mixquant-onnx[reconstruct]' anew"
        ) from error


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def size_limit(text: str, nbytes: int) -> int:
    """Bytes that `5MB` (decimal) or `25%` (of `nbytes`) stand for. Raises OptionError."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*(%|[kKmMgG]?[bB]?)\s*", text)
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    if not found or number <= 0:
        raise OptionError(f"--max-size '{text}' is no size; write for example 5MB or 25%")
    return int(number / 100 * nbytes) if found[2] == "%" else int(number * _UNITS[found[2].upper().rstrip("B") + "B"])


def share(text: str | float, flag: str) -> float:
    """`1%` or `0.01` as a share. Raises OptionError."""
    try:
        if isinstance(text, str) and text.strip().endswith("%"):
            return float(text.strip()[:-1]) / 100
        return float(text)
    except ValueError as error:
        raise OptionError(f"{flag} '{text}' is no share; write for example 1% or 0.01") from error
