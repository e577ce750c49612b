"""What planning works with besides the model: the rows, how much effort, and where results are kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from mixquant_onnx.config.stages import Effort
from mixquant_onnx.data.dataset import DataSplit
from mixquant_onnx.planning.table_file import TableFile


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Workspace:
    """What planning works with.

    Attributes:
        split: The rows; None where there are none.
        root: Where results are kept that do not depend on rows.
        table: Where results are kept that depend on these rows.
        effort: How much is run.
        jobs: Layers that are solved at the same time.
        compensated: Whether rounding is bias-corrected.
    """

    split: DataSplit | None = None
    root: TableFile = field(default_factory=TableFile)
    table: TableFile = field(default_factory=TableFile)
    effort: Effort = "normal"
    jobs: int = 1
    compensated: bool = True

    @property
    def origin(self) -> str | None:
        """Where the rows come from; None where there are none."""
        return None if self.split is None else self.split.fitting.origin
