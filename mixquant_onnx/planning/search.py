"""The MixQuant search: the error of every candidate of every weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from mixquant_onnx.config.stages import FormOptions, SearchOptions, SelectionOptions
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.export.encodings.native_types import NATIVE_WIDTHS
from mixquant_onnx.export.integer_kernels import dequantized_values
from mixquant_onnx.export.targets.integer_kernels import on_integers
from mixquant_onnx.export.targets.lstm_kernels import in_lstm
from mixquant_onnx.export.targets.packed_kernels import WIDTHS as PACKED_WIDTHS
from mixquant_onnx.export.targets.packed_kernels import holds_codes, packed_bytes
from mixquant_onnx.export.targets.packed_kernels import offer as packed_offer
from mixquant_onnx.export.weight_in_model import ModelFacts, WeightInModel
from mixquant_onnx.model.files import Loaded
from mixquant_onnx.model.weights import LocatedWeight, find
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.numerics.threads import in_threads
from mixquant_onnx.planning.error_table import ErrorRow, ErrorTable, row_from_json, row_to_json, site_errors
from mixquant_onnx.planning.integer_candidates import integer_errors
from mixquant_onnx.planning.select_weights import float_values, select, unusable
from mixquant_onnx.planning.table_file import TableFile

_RowOf = Callable[[LocatedWeight, NDArray[np.float32]], ErrorRow]
"""A weight and its values -> the errors of its candidates."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Searched:
    """The weights of a model, the errors of their candidates, and what stays float already. Nothing is chosen.

    `form`: how files are written, which decides what a candidate costs. `settings`: of the search, for the plan.
    """

    loaded: Loaded
    sites: Mapping[str, LocatedWeight]
    table: ErrorTable
    skipped: Mapping[str, str]
    form: FormOptions = field(default_factory=FormOptions)
    settings: Mapping[str, Any] = field(default_factory=dict)


def search(
    loaded: Loaded,
    selection: SelectionOptions,
    options: SearchOptions,
    form: FormOptions,
    *,
    estimate: bool = False,
    kept: TableFile | None = None,
    jobs: int = 1,
    progress: Progress = quiet,
) -> Searched:
    """Measure all candidates of the selected weights (paper: QE at each bit-width).

    Args:
        loaded: The model.
        selection: Which weights are quantized.
        options: Candidates; the method is a known one, not `auto`.
        form: How files are written.
        estimate: errors of slow methods may be estimated.
        kept: Where errors are kept, and taken from; None for nowhere.
        jobs: Weights that are measured at the same time, where they are large.
        progress: Called with the elements measured so far.

    Raises:
        OptionError: a pattern of names matches no weight.
    """
    found = find(loaded.model, selection.min_size)
    sites, skipped = select(found, selection)
    bits = tuple(b for b in options.bits if b in NATIVE_WIDTHS) if form.native_types else options.bits
    wanted = replace(options, bits=bits)
    kept = TableFile() if kept is None else kept.section("estimated" if estimate else "exact")
    row_of = _row_of(loaded.model, found.sites, wanted, form, estimate)
    table, refused = _measured(sites, row_of, kept, jobs if loaded.is_large else 1, progress)
    settings = {
        "bits": widths(table),
        "granularity": str(options.grids[0]) if len(options.grids) == 1 else "auto",
        "method": options.method,
        "symmetric": options.symmetric,
        "baseline": options.baseline,
        "min_size": selection.min_size,
    }
    return Searched(
        loaded=loaded, sites=found.sites, table=table, skipped=skipped | refused, form=form, settings=settings
    )


def _row_of(
    model: ModelProto, sites: Mapping[str, LocatedWeight], options: SearchOptions, form: FormOptions, estimate: bool
) -> _RowOf:
    """The errors of the widths that suit what reads a weight."""
    dequantized = dequantized_values(model, ()) if form.integer else frozenset[str]()
    some, facts = Scheme(bits=PACKED_WIDTHS[0], grid=options.grids[0]), ModelFacts(model, sites)
    packed = replace(options, bits=tuple(b for b in options.bits if b in PACKED_WIDTHS) or options.bits)

    def is_held(located: LocatedWeight) -> bool:
        weight = WeightInModel(located=located, scheme=some, options=form, facts=facts)
        return holds_codes(form) and packed_offer(weight) is not None

    def row_of(located: LocatedWeight, values: NDArray[np.float32]) -> ErrorRow:
        site = located.site
        if is_held(located):
            row = site_errors(site, values, packed, estimate)
            sized = (replace(c, nbytes=packed_bytes(site, c.scheme)) for c in row.candidates)
            return replace(row, candidates=tuple(sized))
        if form.integer is None or not (on_integers(located, dequantized) or in_lstm(located)):
            return site_errors(site, values, options, estimate)
        return integer_errors(site, values, options, form.integer, estimate)

    return row_of


def _measured(
    sites: Mapping[str, LocatedWeight], row_of: _RowOf, kept: TableFile, jobs: int, progress: Progress
) -> tuple[dict[str, ErrorRow], dict[str, str]]:
    """The errors of each weight, and why others cannot be quantized. Each is decoded once, and not kept.

    One thread for small ones: two were measured to gain nothing, as each step is too short for the interpreter to
    change hands.
    """
    table, refused = dict[str, ErrorRow](), dict[str, str]()
    total, done = sum(located.site.elements for located in sites.values()), 0

    def measured(located: LocatedWeight) -> Any:
        values = float_values(located)
        return unusable(values) or row_to_json(row_of(located, values))

    known = {name: kept.get_json("errors", name) for name in sites}
    fresh = in_threads(measured, [one for name, one in sites.items() if known[name] is None], jobs)
    for name, located in sites.items():
        entry = known[name]
        if entry is None:
            entry = next(fresh)
            kept.put_json("errors", name, entry)
        if isinstance(entry, str):
            refused[name] = entry
        else:
            table[name] = row_from_json(name, entry)
        done += located.site.elements
        progress("search", done, total)
    return table, refused


def widths(table: ErrorTable) -> list[int]:
    """All bits that candidates have, fewest first."""
    return sorted({c.scheme.bits for errors in table.values() for c in errors.candidates})
