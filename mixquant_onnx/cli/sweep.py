"""`mixquant-onnx sweep`: many plans of one model, as a table, CSV and JSON."""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixquant_onnx.cli.common import Parser, write_text
from mixquant_onnx.errors import OptionError

if TYPE_CHECKING:
    from mixquant_onnx.events import Progress
    from mixquant_onnx.options import Options
    from mixquant_onnx.planning.allocation import Priced

_STEP = 0.5


def numbers(text: str, flag: str) -> list[float]:
    """`1,2,4`, `2.5..8` (steps of 0.5) or `2.5..8:0.25`. Raises OptionError."""
    values: list[float] = []
    try:
        for part in text.split(","):
            found = re.fullmatch(r"\s*([0-9.]+?)\s*\.\.\s*([0-9.]+)\s*(?::\s*([0-9.]+))?\s*", part)
            if not found:
                values.append(float(part))
                continue
            first, last, step = float(found[1]), float(found[2]), float(found[3] or _STEP)
            if step <= 0 or last < first:
                raise ValueError(part)
            values += [round(first + k * step, 6) for k in range(int((last - first) / step + 1e-9) + 1)]
    except ValueError as error:
        raise OptionError(f"{flag} '{text}' is not understood; write 1,2,4 or 2.5..8") from error
    return values


def split_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options that only sweep has, or has as lists, and the others."""
    own = Parser(add_help=False, allow_abbrev=False)
    own.add_argument("--qem")
    own.add_argument("--avg-bits")
    own.add_argument("--csv", type=Path)
    own.add_argument("--json", type=Path)
    own.add_argument("--table", type=Path)
    own.add_argument("--from-table", type=Path)
    return own.parse_known_args(list(arguments))


def run_sweep(
    own: argparse.Namespace,
    options: dict[str, Any],
    source: Path,
    progress_bar: Callable[[], AbstractContextManager[Progress]],
) -> int:
    """Measure once, plan often, show and write. Raises a MixquantError."""
    from rich.console import Console

    from mixquant_onnx.api import options_of, read_json
    from mixquant_onnx.model.files import check_writable, load
    from mixquant_onnx.planning.allocation import price, with_data
    from mixquant_onnx.report.inputs import Sweep
    from mixquant_onnx.report.sections import parts_of, tradeoff
    from mixquant_onnx.report.terminal import show
    from mixquant_onnx.tradeoff import sweep, table_from_json, table_to_json

    if any(options.get(goal) is not None for goal in ("max_size", "max_drop", "min_sqnr", "min_agreement")):
        raise OptionError("sweep takes --qem and --avg-bits; a goal is for a run")
    qems = numbers(own.qem, "--qem") if own.qem else []
    bits = numbers(own.avg_bits, "--avg-bits") if own.avg_bits else []
    if any(not 2 <= x <= 32 for x in bits) or any(not x > 0 for x in qems):
        raise OptionError("sweep takes bits a weight from 2 to 32 and positive QEMs")
    chosen = options_of(**{**options, "avg_bits": bits[0] if bits else None})
    for path in (own.csv, own.json, own.table):
        if path is not None:
            check_writable(path)
    loaded = load(source)
    chosen = with_data(loaded, chosen)
    with progress_bar() as progress:
        if own.from_table is not None:
            read = read_json(own.from_table, "write a table with sweep --table FILE")
            priced = table_from_json(read, loaded)
            settings = read["settings"] if isinstance(read.get("settings"), dict) else {}
            _check_settings(options, settings)
            _check_data(priced, chosen)
        else:
            priced = price(loaded, chosen, progress)
            settings = {name: options[name] for name in _MEASURED}
        points = sweep(priced, chosen, qems, bits, str(source), progress, _note)
    made = Sweep(points=points, nbytes_before=loaded.nbytes)
    show(parts_of(made), Console(highlight=False))
    rows = tradeoff.data(made)["points"]
    if own.table is not None:
        write_text(own.table, json.dumps(table_to_json(priced, settings)) + "\n")
    if own.json is not None:
        write_text(own.json, json.dumps(rows, indent=1) + "\n")
    if own.csv is not None:
        write_text(own.csv, _csv(rows))
    return 0


_MEASURED = (
    "bits", "method", "granularity", "symmetric", "baseline", "cost", "include", "exclude", "min_size", "native_types",
)  # fmt: skip
"""Options that a table was measured with, and that do nothing when it is read."""


def _check_settings(options: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises OptionError where an option was given that the table was not measured with."""
    from mixquant_onnx.api import options_of

    for name in _MEASURED:
        usual = signature(options_of).parameters[name].default
        given, usual, known = (
            list(v) if isinstance(v, tuple) else v for v in (options[name], usual, settings.get(name))
        )
        if given != usual and given != known:
            flag = "--" + name.replace("_", "-")
            raise OptionError(
                f"{flag} does nothing to the table of --from-table, which was measured with another; "
                f"leave {flag} out, or measure again"
            )


def _check_data(priced: Priced, chosen: Options) -> None:
    """Raises OptionError where what the table chooses from needs data to be judged; tells where it was made without."""
    from mixquant_onnx.quantization.weight import SOLVERS

    methods = {cell.scheme.method for errors in priced.searched.table.values() for cell in errors.cells}
    solvers = sorted(methods & SOLVERS.keys())
    if chosen.origin in (None, "noise") and chosen.verify and solvers:
        raise OptionError(
            f"the method in --from-table, '{solvers[0]}', needs --data; give it again (or --no-verify, for sizes alone)"
        )
    if chosen.origin == "user" and not solvers and priced.cost == "energy":
        _note("the table of --from-table was measured without --data, which chooses neither bits nor methods here")


def _note(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
