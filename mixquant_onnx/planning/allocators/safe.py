"""The MixQuant rule on a floor: no tensor below an SQNR of its own, and small tensors at the most bits.

"At most QEM times the error of plain int8" is worth as much as plain int8 is on the tensor: outliers, and depthwise
layers of one small scale for many channels, spoil its grid (docs/data_free.md).
"""

from __future__ import annotations

from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.error_table import Cell, ErrorTable, SiteErrors

LEAST_SQNR_DB = 25.0
"""Of a tensor's dequantized weights: what 5 bits per channel give weights without outliers."""

INSURANCE = 0.01
"""Share of the plan's bytes that is spent on the most bits for the smallest tensors."""


def limit_of(errors: SiteErrors, qem: float) -> float:
    """The QE that a tensor may have: QEM times its baseline, and no more than the floor allows."""
    return min(qem * errors.baseline, errors.power * 10 ** (-LEAST_SQNR_DB / 10))


def choose(errors: SiteErrors, qem: float) -> Cell:
    """The fewest bytes whose QE is at most `limit_of`; the least QE where none qualifies."""
    cells = sorted(errors.cells, key=_bytes_and_bits)
    limit = limit_of(errors, qem)
    return next((cell for cell in cells if cell.qe <= limit), _best(errors))


def allocate(table: ErrorTable, qem: float) -> dict[str, Scheme]:
    """The rule on its floor for each tensor, then the most bits for the smallest of them."""
    chosen = {name: choose(errors, qem) for name, errors in table.items()}
    left = INSURANCE * sum(cell.nbytes for cell in chosen.values())
    for name in sorted(table, key=lambda n: (table[n].elements, n)):
        best = _best(table[name])
        left -= best.nbytes - chosen[name].nbytes
        if left < 0:
            break
        chosen[name] = best
    return {name: cell.scheme for name, cell in chosen.items()}


def _bytes_and_bits(cell: Cell) -> tuple[int, int]:
    return cell.nbytes, cell.scheme.bits


def _best(errors: SiteErrors) -> Cell:
    """The least QE, in the fewest bytes."""
    return min(errors.cells, key=lambda cell: (cell.qe, *_bytes_and_bits(cell)))
