"""The options of each stage. The command line and docs/options.md show the text in `help`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mixquant_onnx.config import parsing
from mixquant_onnx.config.activations import Cpu
from mixquant_onnx.config.option import option
from mixquant_onnx.errors import OptionError
from mixquant_onnx.numerics.granularity import ALL_BITS, PER_CHANNEL, Granularity

Fused = Literal["auto", "always", "packed", "never"]
Effort = Literal["fast", "normal", "thorough"]
Metric = Callable[[Path], float]
"""The value of a metric for the model at a path."""

_LONGEST = 1_000_000
"""Largest number of seconds or iterations; a guard against typing errors."""
_MOST_JOBS = 1024
"""Largest number of jobs; a guard against typing errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionOptions:
    """Tensors to quantize. Patterns match names of tensors, weights and nodes (fnmatch)."""

    include: tuple[str, ...] = option(
        (), "only these tensors or nodes", accepts="Sequence[str]", kind="list", metavar="PATTERN",
        convert=parsing.patterns,
    )  # fmt: skip
    exclude: tuple[str, ...] = option(
        (), "these tensors or nodes stay float; may be given several times, as --include",
        accepts="Sequence[str]", kind="list", metavar="PATTERN", convert=parsing.patterns,
    )  # fmt: skip
    min_size: int = option(
        256, "tensors of fewer elements stay float", accepts="int", metavar="N", shown="256; 64 with --activations",
        convert=parsing.number("--min-size", 1, math.inf, "a positive number of elements", whole=True),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOptions:
    """Candidates of each tensor: widths, granularities, one method."""

    bits: tuple[int, ...] = option(
        ALL_BITS, "allowed widths: 2-8, or a list such as 4,8", accepts="int | str | Sequence[int]", shown="2-8",
        metavar="LIST", convert=parsing.widths,
    )  # fmt: skip
    method: str = option(
        "auto",
        "minmax (or asymmetric), mse, hqq; on data or proxy inputs gptq, adaround, brecq; auto: gptq where there are "
        "any",
        accepts="str", metavar="NAME",
    )  # fmt: skip
    grids: tuple[Granularity, ...] = option(
        (PER_CHANNEL,), "one scale for each: tensor, channel, block:N (N weights) or auto", accepts="str",
        keyword="granularity", shown="channel", metavar="NAME", convert=parsing.grids,
    )  # fmt: skip
    symmetric: bool = option(False, "symmetric ranges, one zero point", accepts="bool", kind="switch")
    baseline: Literal["int8", "same"] = option(
        "int8", "what QEM multiplies: the error of plain int8, or of the same quantizer at 8 bits",
        accepts='Literal["int8", "same"]', choices=("int8", "same"),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetOptions:
    """How many bits to spend, and by which rule or sensitivity."""

    qem: float = option(
        2.0, "a tensor's error may be X times that of plain int8; larger is smaller and less exact",
        accepts="float", metavar="X",
        convert=parsing.number("--qem", -math.inf, math.inf, "a positive number; 2 is a good start"),
    )  # fmt: skip
    scope: Literal["layer", "model"] = option(
        "layer", "layer: the rule for each tensor; model: the same sum of relative errors, spent at fewest bytes",
        accepts='Literal["layer", "model"]', choices=("layer", "model"),
    )  # fmt: skip
    rule: str = option(
        "safe", "safe: no tensor below what its outputs can stand; paper: the rule to the letter",
        accepts="str", metavar="NAME",
    )  # fmt: skip
    avg_bits: float | None = option(
        None, "X bits a weight, scales and zero points counted", accepts="float | None", metavar="X",
        convert=parsing.number("--avg-bits", 2, 32, "bits a weight, such as 4.5"),
    )  # fmt: skip
    max_size: str | None = option(
        None, "a file of at most 5MB, or 25% of the input", accepts="str | int | None", metavar="SIZE",
        convert=parsing.size,
    )  # fmt: skip
    cost: str = option(
        "auto",
        "sensitivity that a budget minimises: weight-error, layer-output, network-output, kl (of a next token), "
        "block-output, uniform; auto: whichever does best on some rows of --data, else weight-error",
        accepts="str", metavar="NAME",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not (math.isfinite(self.qem) and self.qem > 0):
            raise OptionError(f"--qem {self.qem:g} is not a positive number; 2 is a good start")

    @property
    def by_layer(self) -> bool:
        """Whether the rule decides layer by layer, and not a budget over the whole model."""
        return self.avg_bits is None and self.max_size is None and self.scope == "layer"


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyOptions:
    """The accuracy target: one of max_drop, min_sqnr, min_agreement, max_kl.

    `max_drop` and `min_agreement` are shares, `min_sqnr` is in dB, `max_kl` in nats a token.
    """

    max_drop: float | None = option(
        None, "lose at most 1% of the float accuracy (labels or metric)", accepts="str | float | None",
        metavar="SHARE", convert=parsing.share("--max-drop"),
    )  # fmt: skip
    min_sqnr: float | None = option(
        None, "outputs at least so near to float's on --data", accepts="float | None", metavar="DB",
        convert=parsing.number("--min-sqnr", -math.inf, math.inf, "decibels, such as 30"),
    )  # fmt: skip
    min_agreement: float | None = option(
        None, "the same class as float for 99% of the rows of --data", accepts="str | float | None",
        metavar="SHARE", convert=parsing.share("--min-agreement"),
    )  # fmt: skip
    max_kl: float | None = option(
        None, "of a language model: at most so many nats a token between its next token and float's",
        accepts="float | None", metavar="NATS",
        convert=parsing.number("--max-kl", 0, math.inf, "nats a token, such as 0.01"),
    )  # fmt: skip
    metric: str | Metric | None = option(
        None, "a command that prints a value for {model}; its last line counts", flag="--metric-command",
        accepts="str | Callable[[Path], float] | None", metavar="CMD",
    )  # fmt: skip
    metric_key: str | None = option(None, "which value, where that line is JSON", accepts="str | None", metavar="KEY")
    lower_is_better: bool = option(False, "of the value", accepts="bool", kind="switch")
    metric_timeout: float = option(
        1800.0, "seconds for a command", accepts="float", metavar="S",
        convert=parsing.number("--metric-timeout", 1e-9, _LONGEST, f"seconds, more than 0 and at most {_LONGEST}"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop < 1:
            raise OptionError("--max-drop takes a share of the float value, such as 1% or 0.01")
        if self.min_agreement is not None and not 0 < self.min_agreement <= 1:
            raise OptionError("--min-agreement takes a share of rows, such as 99% or 0.99")
        if sum(value is not None for value in self._targets) > 1:
            raise OptionError("--max-drop, --min-sqnr, --min-agreement and --max-kl exclude each other; give one")
        if self.metric is not None and self.max_drop is None:
            raise OptionError("--metric-command needs --max-drop, such as --max-drop 1%")
        if isinstance(self.metric, str) and "{model}" not in self.metric:
            raise OptionError("--metric-command has no {model} where the file's name is to go")
        if self.metric is None and (self.metric_key is not None or self.lower_is_better):
            raise OptionError("--metric-key and --lower-is-better belong to --metric-command")

    @property
    def wanted(self) -> bool:
        """Whether there is an accuracy target."""
        return any(value is not None for value in self._targets)

    @property
    def _targets(self) -> tuple[float | None, ...]:
        return self.max_drop, self.min_sqnr, self.min_agreement, self.max_kl

    @property
    def judged_by_data(self) -> bool:
        """Whether the file is evaluated on samples of --data or --eval-data, not by the user's metric."""
        return self.wanted and self.metric is None


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundingOptions:
    """How weights are rounded. `seed`, `iterations` and `resume` apply to brecq."""

    rounding: Literal["compensated", "nearest"] = option(
        "compensated", "compensated: a few weights are rounded the other way so that outputs keep their mean",
        accepts='Literal["compensated", "nearest"]', choices=("compensated", "nearest"),
    )  # fmt: skip
    seed: int = option(
        0, "of brecq", accepts="int", metavar="N",
        convert=parsing.number("--seed", 0, (1 << 31) - 1, "a number from 0 to 2147483647", whole=True),
    )  # fmt: skip
    iterations: int = option(
        500, "of brecq, for each block", accepts="int", metavar="N",
        convert=parsing.number("--iterations", 1, _LONGEST, f"a number from 1 to {_LONGEST}", whole=True),
    )  # fmt: skip
    resume: Path | None = option(
        None, "a folder where brecq keeps finished blocks, and takes them up", accepts="str | Path | None",
        metavar="DIR", convert=parsing.path,
    )  # fmt: skip

    @property
    def compensated(self) -> bool:
        """Whether a few weights are rounded the other way so that outputs keep their mean."""
        return self.rounding == "compensated"


@dataclass(frozen=True, kw_only=True, slots=True)
class FormOptions:
    """What is written into the file.

    `fused` selects the large MatMul and Gemm weights that run on the runtime's low-bit kernels. `auto`: those that see
    one row by the model's declared shapes, where the kernels are faster on every processor tested; `always`: all of
    them, which is faster on processors with VNNI and up to 1.7 times slower on others (docs/research/kernels.md);
    `never`: none. `integer`: the processors for which layers with rounded inputs run on integers; None where none do.
    """

    target: str = option(
        "ort", "ort: never slower on ONNX Runtime; qdq: DequantizeLinear everywhere, for other runtimes",
        accepts="str", metavar="NAME",
    )  # fmt: skip
    fused: Fused = option(
        "auto", "MatMul on low-bit kernels: auto: where the model's shapes tell of one row; always: faster on "
        "processors with VNNI, slower on others with many rows; packed: the same, held as codes in memory, tables of "
        "rows too; never: all at float speed",
        accepts='Literal["auto", "always", "packed", "never"]', choices=("auto", "always", "packed", "never"),
    )  # fmt: skip
    exact: bool = option(False, "no rounding of activations: the same as --fused never", accepts="bool", kind="switch")
    native_types: bool = option(False, "only widths that ONNX has types for (2, 4, 8)", accepts="bool", kind="switch")
    min_ort: tuple[int, int] = option(
        parsing.FUSED_PAYS_FROM, "the oldest onnxruntime that must load the file and not be slower than float",
        accepts="str | tuple[int, int]", shown="1.25", metavar="X.Y", convert=parsing.release,
    )  # fmt: skip
    integer: Cpu | None = None

    def __post_init__(self) -> None:
        if self.exact and self.target == "qdq":
            raise OptionError("--exact belongs to --target ort; with --target qdq the runtime decides")
        if self.exact and self.fused in ("always", "packed"):
            told = f"--exact and --fused {self.fused} exclude each other: fused products round activations"
            raise OptionError(told)
        if self.exact:
            object.__setattr__(self, "fused", "never")

    @property
    def small_ints(self) -> bool:
        """Whether Add and Sub on 8-bit integers may be used."""
        return self.min_ort >= parsing.SMALL_INTS_FROM


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkOptions:
    """How much work is done to choose a plan, and where its results are kept."""

    effort: Effort = option(
        "normal",
        "fast: no run for each layer; normal: one or two, and the best plans are compared as they will be finished; "
        "thorough: all plans, pairs of layers, brecq where torch is installed",
        accepts='Literal["fast", "normal", "thorough"]', choices=("fast", "normal", "thorough"),
    )  # fmt: skip
    jobs: int = option(
        1, "layers that are solved at the same time (joblib), or weights of a model over 2 GB; -1 for as many as there "
        "are processors",
        accepts="int", metavar="N",
        convert=parsing.number("--jobs", -1, _MOST_JOBS, "a number of processes, or -1 for all", whole=True),
    )  # fmt: skip
    table: Path | None = option(
        None, "keep what is measured in this file, and take it up: a second goal takes seconds, and so does a run that "
        "was interrupted",
        accepts="str | Path | None", metavar="FILE", convert=parsing.path,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.jobs == 0:
            raise OptionError("--jobs 0 does no work; give 1 or more, or -1 for as many as there are processors")
