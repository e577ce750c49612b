"""The MixQuant rule with a least SQNR for each weight, and the most bits for the smallest weights.

The paper bounds the error by a multiple of that of plain int8, which itself is large on weights with outliers and on
depthwise layers, where one scale serves channels of very different magnitudes (docs/research/data_free.md).
"""

from __future__ import annotations

from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.error_table import Candidate, ErrorRow, ErrorTable

LEAST_SQNR_DB = 25.0
"""Least SQNR of a tensor's dequantized weights, in dB: that of 5 bits per channel on weights without outliers
(docs/research/data_free.md).
"""

INSURANCE = 0.01
"""Share of the plan's bytes that is spent on the most bits for the smallest weights."""


def limit_of(errors: ErrorRow, qem: float) -> float:
    """The QE that a weight may have: QEM x baseline, or that of LEAST_SQNR_DB where it is less.

    Args:
        errors: The weight.
        qem: Quantization error multiplier.

    Returns:
        The limit, a mean squared error.
    """
    return min(qem * errors.baseline, errors.power * 10 ** (-LEAST_SQNR_DB / 10))


def choose(errors: ErrorRow, qem: float) -> Candidate:
    """The fewest bytes whose quantization error is at most `limit_of`.

    Args:
        errors: The candidates of one weight.
        qem: Quantization error multiplier.

    Returns:
        The candidate; that of least error where none qualifies.
    """
    cells = sorted(errors.candidates, key=_bytes_and_bits)
    limit = limit_of(errors, qem)
    return next((cell for cell in cells if cell.qe <= limit), _best(errors))


def allocate(table: ErrorTable, qem: float) -> dict[str, Scheme]:
    """Apply `choose` to each weight, then give the smallest weights their least error.

    These are taken in the order of their size until INSURANCE of the plan's bytes is spent.

    Args:
        table: The candidates of all weights.
        qem: Quantization error multiplier.

    Returns:
        A scheme for each weight.
    """
    chosen = {name: choose(errors, qem) for name, errors in table.items()}
    left = INSURANCE * sum(cell.nbytes for cell in chosen.values())
    for name in sorted(table, key=lambda n: (table[n].elements, n)):
        best = _best(table[name])
        left -= best.nbytes - chosen[name].nbytes
        if left < 0:
            break
        chosen[name] = best
    return {name: cell.scheme for name, cell in chosen.items()}


def _bytes_and_bits(cell: Candidate) -> tuple[int, int]:
    return cell.nbytes, cell.scheme.bits


def _best(errors: ErrorRow) -> Candidate:
    """The candidate of least quantization error, with the fewest bytes."""
    return min(errors.candidates, key=lambda cell: (cell.qe, *_bytes_and_bits(cell)))
