"""The result of a verification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mixquant_onnx.verification.quality import Quality
from mixquant_onnx.verification.statistics import Share


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was checked on a written model, and how close it is to the float model.

    Attributes:
        codes: Number of weight tensors whose stored codes decode exactly.
        decoder: What decoded them, "ONNX Runtime" or "NumPy".
        reference_sqnr_db: SQNR in dB against the float graph with the same dequantized weights; None where the two were
            not compared.
        quality: Outputs compared with the float model's, one entry for each profile of the runtime.
        float_accuracy_share: Top-1 accuracy of the float model, where there are labels.
        samples: Number of samples compared.
        origin: Where these samples come from.
        data_name: What they are called in reports.
        notes: Remarks on what was not checked, and why.
        warnings: Where quality is at risk, each with what to do.
        in_sample: Whether the weights were fitted to these samples.
        overflowing: Integer layers whose results may differ between processors with and without VNNI.
        optimism_db: By how many dB the metrics are better than on other samples, where that is known.
    """

    codes: int
    decoder: str
    reference_sqnr_db: float | None
    quality: tuple[Quality, ...]
    float_accuracy_share: Share | None
    samples: int
    origin: Literal["user", "proxy", "noise"]
    data_name: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    in_sample: bool = False
    optimism_db: float | None = None
    overflowing: tuple[str, ...] = ()

    @property
    def synthetic(self) -> bool:
        """Whether samples were compared that are not the user's."""
        return self.samples > 0 and self.origin != "user"

    @property
    def float_accuracy(self) -> float | None:
        """Top-1 accuracy of the float model, from 0 to 1; None without labels."""
        return None if self.float_accuracy_share is None else self.float_accuracy_share.value

    @property
    def deployed(self) -> Quality | None:
        """Quality under ONNX Runtime's default options; None where outputs were not compared."""
        return next((q for q in self.quality if q.profile == "deployed"), None)
