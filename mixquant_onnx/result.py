"""What a run gives, and how it is executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto

from mixquant_onnx.config.checks import CheckOptions
from mixquant_onnx.config.stages import FormOptions, RoundingOptions
from mixquant_onnx.data.dataset import DataSplit
from mixquant_onnx.export.encodings.sizes import bits_per_weight
from mixquant_onnx.export.rewrite import Rewritten
from mixquant_onnx.model.tensor_data import DataFile, with_data
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.planning.error_table import ErrorTable
from mixquant_onnx.planning.plan import Plan
from mixquant_onnx.verification.latency import Latency
from mixquant_onnx.verification.memory import Memory
from mixquant_onnx.verification.result import Verification
from mixquant_onnx.verification.trial import Trial
from mixquant_onnx.verification.warnings import MORE_BITS


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunResult:
    """The model, what was decided and measured, and the proof (None where it was not asked for).

    `stored` may refer to values in files, which `data` keeps open.
    Sizes are bytes, external data included. `quantized` are the weights, `qe` is that of their codes. `latency`: times
    of a run, where they were measured; `memory`: of the float model's session and of the written one's. `trials`: for
    an accuracy target, in order.
    """

    stored: ModelProto
    plan: Plan
    table: ErrorTable
    sites: Mapping[str, LocatedWeight]
    rewritten: Rewritten
    form: FormOptions
    verification: Verification | None
    nbytes_before: int
    nbytes_after: int
    quantized: Mapping[str, QuantizedTensor]
    qe: Mapping[str, float]
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    latency: tuple[Latency, ...] = ()
    memory: tuple[Memory, Memory] | None = None
    trials: tuple[Trial, ...] = ()
    data: tuple[DataFile, ...] = ()

    @property
    def model(self) -> ModelProto:
        """The model with all its values."""
        return with_data(self.stored)

    @property
    def elements(self) -> int:
        """Number of quantized weights."""
        return sum(self.sites[name].site.elements for name in self.plan.sites)

    @property
    def average_bits(self) -> float:
        """Bits for each quantized weight: codes, scales and zero points as stored."""
        return bits_per_weight(sum(self.rewritten.nbytes.values()), self.elements)


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """What becomes of a plan.

    Attributes:
        split: The rows to fit to and to judge by; None where there are none.
        rounding: How weights are rounded.
        checks: What is checked.
        notes: Remarks for the user.
        advice: What to do where quality is low.
        jobs: Weights of a large model that are quantized at the same time.
    """

    split: DataSplit | None = None
    rounding: RoundingOptions = field(default_factory=RoundingOptions)
    checks: CheckOptions = field(default_factory=CheckOptions)
    notes: tuple[str, ...] = ()
    advice: str = MORE_BITS
    jobs: int = 1
