"""The MixQuant rule (Kloberdanz and Le 2023, arXiv 2309.17341), layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.error_table import ErrorRow, ErrorTable


def limit_of(errors: ErrorRow, qem: float) -> float:
    """The QE that a tensor may have: QEM times its baseline.

    Args:
        errors: The tensor.
        qem: Quantization error multiplier.

    Returns:
        The limit, a mean squared error.

    Source:
        Kloberdanz and Le 2023, arXiv 2309.17341, equation 2.
    """
    return qem * errors.baseline


def choose(errors: ErrorRow, qem: float) -> Scheme:
    """The fewest bytes whose quantization error is at most QEM x baseline.

    Every candidate is considered, as the error need not decrease with more bits. Among equal bytes the fewer bits.

    Args:
        errors: The candidates of one weight, with their quantization errors, and that of plain int8 (the baseline).
        qem: Quantization error multiplier.

    Returns:
        The scheme. Where no candidate qualifies: the most bytes, as in the paper, with one granularity; else the least
        error.

    Source:
        Kloberdanz and Le 2023, arXiv 2309.17341.
    """
    cells = sorted(errors.candidates, key=lambda cell: (cell.nbytes, cell.scheme.bits))
    limit = limit_of(errors, qem)
    least = min(reversed(cells), key=lambda cell: cell.qe) if len({c.scheme.grid for c in cells}) > 1 else cells[-1]
    return next((cell.scheme for cell in cells if cell.qe <= limit), least.scheme)


def allocate(table: ErrorTable, qem: float) -> dict[str, Scheme]:
    """Apply `choose` to every weight.

    Args:
        table: The candidates of all weights.
        qem: Quantization error multiplier.

    Returns:
        A scheme for each weight.
    """
    return {name: choose(errors, qem) for name, errors in table.items()}


def unmet(table: ErrorTable, chosen: Mapping[str, Scheme], qem: float) -> list[str]:
    """The weights whose error is above QEM x baseline.

    Args:
        table: The candidates of all weights.
        chosen: Schemes by the name of the weight.
        qem: Quantization error multiplier.

    Returns:
        Their names.
    """
    return [
        name
        for name, scheme in chosen.items()
        if any(cell.scheme == scheme and cell.qe > limit_of(table[name], qem) for cell in table[name].candidates)
    ]
