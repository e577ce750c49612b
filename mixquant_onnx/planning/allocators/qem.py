"""The MixQuant rule (Kloberdanz and Le 2023, arXiv 2309.17341), layer by layer."""

from __future__ import annotations

from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.error_table import ErrorTable, SiteErrors


def limit_of(errors: SiteErrors, qem: float) -> float:
    """The QE that a tensor may have (equation 2 of the paper): QEM times its baseline."""
    return qem * errors.baseline


def choose(errors: SiteErrors, qem: float) -> Scheme:
    """The fewest bytes whose quantization error is at most QEM x baseline.

    Every candidate is looked at, as the error need not fall while bits rise. Of equal bytes the fewer bits.

    Args:
        errors: The candidates of one weight, with their quantization errors, and that of plain int8 (the baseline).
        qem: Quantization error multiplier.

    Returns:
        Where no candidate qualifies: the most bytes, as in the paper, with one granularity; else the least error.

    Source: Kloberdanz and Le 2023, arXiv 2309.17341.
    """
    cells = sorted(errors.cells, key=lambda cell: (cell.nbytes, cell.scheme.bits))
    limit = limit_of(errors, qem)
    least = min(reversed(cells), key=lambda cell: cell.qe) if len({c.scheme.grid for c in cells}) > 1 else cells[-1]
    return next((cell.scheme for cell in cells if cell.qe <= limit), least.scheme)


def allocate(table: ErrorTable, qem: float) -> dict[str, Scheme]:
    """`choose` for every weight of `table`."""
    return {name: choose(errors, qem) for name, errors in table.items()}
