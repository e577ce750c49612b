"""All options of a run, one dataclass per stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mixquant_onnx.config.activations import INTEGER_FROM_ORT, ActivationOptions
from mixquant_onnx.config.checks import CheckOptions
from mixquant_onnx.config.goals import check_goals
from mixquant_onnx.config.option import Option, options_in
from mixquant_onnx.config.samples import DataOptions
from mixquant_onnx.config.stages import (
    AccuracyOptions,
    BudgetOptions,
    FormOptions,
    RoundingOptions,
    SearchOptions,
    SelectionOptions,
    WorkOptions,
)
from mixquant_onnx.errors import OptionError


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All options of a run. Only entry points use all of it; each stage takes its own part.

    Attributes:
        budget: How many bits to spend.
        search: Candidates of each tensor.
        selection: Tensors to quantize.
        accuracy: The accuracy target.
        activations: Whether layers run on integers.
        form: Form of the file.
        data: Where samples are read from.
        rounding: How weights are rounded.
        work: How much is run to choose a plan.
        checks: What is checked at the end.

    Raises:
        OptionError: Options of different stages exclude each other.
    """

    budget: BudgetOptions = field(default_factory=BudgetOptions)
    search: SearchOptions = field(default_factory=SearchOptions)
    selection: SelectionOptions = field(default_factory=SelectionOptions)
    accuracy: AccuracyOptions = field(default_factory=AccuracyOptions)
    activations: ActivationOptions = field(default_factory=ActivationOptions)
    form: FormOptions = field(default_factory=FormOptions)
    data: DataOptions = field(default_factory=DataOptions)
    rounding: RoundingOptions = field(default_factory=RoundingOptions)
    work: WorkOptions = field(default_factory=WorkOptions)
    checks: CheckOptions = field(default_factory=CheckOptions)

    def __post_init__(self) -> None:
        goals = (self.budget.avg_bits is not None) + (self.budget.max_size is not None) + self.accuracy.wanted
        if goals > 1:
            raise OptionError(
                "--avg-bits, --max-size and an accuracy target (--max-drop, ...) exclude each other; give one"
            )
        if self.form.native_types and not set(self.search.bits) & {2, 4, 8}:
            raise OptionError("--native-types leaves no width: allow 4 or 8 with --bits")

        self._check_activations()

    def _check_activations(self) -> None:
        if not self.activations.integer:
            return
        if min(self.search.bits) > 7 and self.activations.cpu == "any":
            raise OptionError("--activations takes weights of at most 7 bits; allow them, or give --cpu vnni")
        if self.data.data is None and self.activations.activations == "8":
            raise OptionError(
                "--activations 8 needs --data, rows from which the ranges of activations are known; without, give "
                "--activations dynamic"
            )
        if self.form.min_ort < INTEGER_FROM_ORT:
            raise OptionError("--activations needs onnxruntime 1.25 or later; leave --min-ort out")
        if any(grid.block is not None for grid in self.search.grids):
            raise OptionError("--activations takes one scale for each channel or tensor; leave --granularity out")

    @property
    def by_layer(self) -> bool:
        """Whether the rule decides layer by layer, without a budget over the whole model."""
        return self.budget.by_layer and not self.accuracy.wanted


STAGES: Mapping[str, tuple[str, Any]] = {
    "budget": ("How many bits", BudgetOptions),
    "search": ("Candidates", SearchOptions),
    "selection": ("Which tensors", SelectionOptions),
    "accuracy": ("Accuracy target (instead of --qem; the smallest file that reaches it)", AccuracyOptions),
    "activations": ("Integer execution", ActivationOptions),
    "form": ("Form of the file", FormOptions),
    "data": ("Data", DataOptions),
    "rounding": ("Rounding", RoundingOptions),
    "work": ("Time and work", WorkOptions),
    "checks": ("Checks", CheckOptions),
}
"""For each field of `Config`, the title of its options and its dataclass."""


def all_options() -> list[Option]:
    """Every option, in the order of the stages."""
    return [one for _, stage in STAGES.values() for one in options_in(stage)]


def config_of(**keywords: Any) -> Config:
    """The `Config` for keywords or flags; options that are not given have their defaults.

    Args:
        **keywords: Values by the keyword of the Python interface.

    Returns:
        The options of all stages.

    Raises:
        OptionError: A keyword is not known, a value is not allowed, or two options exclude each other.
    """
    known = [one.keyword for one in all_options()]
    for name in keywords:
        if name not in known:
            raise OptionError(f"option '{name}' is not known; choose from {', '.join(known)}")
    assert {f.name for f in fields(Config)} == set(STAGES)
    check_goals(keywords)
    keywords = {**_for(keywords), **keywords}
    if str(keywords.get("activations", "float")) != "float":
        keywords = {"min_size": _LEAST_ON_INTEGERS, **keywords}
    made = {}
    for name, (_, stage) in STAGES.items():
        given = {o.field: o.convert(keywords[o.keyword]) for o in options_in(stage) if o.keyword in keywords}
        made[name] = stage(**given)
    return Config(**made)


_LEAST_ON_INTEGERS = 64
"""Elements of a tensor: a small layer in float keeps those around it from handing codes on."""


def _for(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """What `optimize_for` stands for."""
    purpose = keywords.get("optimize_for")
    if purpose == "speed":
        return {"activations": "dynamic" if keywords.get("data") is None else "8"}
    return {} if purpose is None else {"fused": {"size": "never", "memory": "packed"}.get(purpose, "auto")}
