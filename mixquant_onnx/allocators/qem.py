"""The MixQuant rule (Kloberdanz and Le 2023, arXiv 2309.17341), layer by layer."""

from __future__ import annotations

from mixquant_onnx.types import ErrorTable, Scheme, SiteErrors


def choose(errors: SiteErrors, qem: float) -> Scheme:
    """The fewest bits whose QE is at most QEM x baseline; the most bits where none qualifies.

    Every width is looked at: QE need not fall as bits rise.
    """
    cells = sorted(errors.cells, key=lambda cell: cell.scheme.bits)
    limit = qem * errors.baseline
    return next((cell.scheme for cell in cells if cell.qe <= limit), cells[-1].scheme)


def allocate(table: ErrorTable, qem: float) -> dict[str, Scheme]:
    return {name: choose(errors, qem) for name, errors in table.items()}
