"""`mixquant-onnx sweep`: many plans of one model, as a table, CSV and JSON."""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixquant_onnx.cli.figures import add_figures, plots_of, write_plots
from mixquant_onnx.cli.outputs import (
    STANDARD_OUTPUT,
    check_outputs,
    check_table_of,
    command_line,
    write_json,
    write_text,
)
from mixquant_onnx.cli.parser import Parser, add_options, keywords_in, paths_in
from mixquant_onnx.cli.progress import progress_bar
from mixquant_onnx.errors import OptionError

if TYPE_CHECKING:
    from mixquant_onnx.report.figures.save import Plot
    from mixquant_onnx.report.inputs import Sweep
    from mixquant_onnx.report.sections.tradeoff import PointData

_STEP = 0.5
"""Step of a range of numbers without one; half a bit."""


def numbers(text: str, flag: str) -> list[float]:
    """Parse a list of numbers.

    Args:
        text: `1,2,4`, `2.5..8` (steps of 0.5) or `2.5..8:0.25`.
        flag: Name of the option, for the message.

    Returns:
        The numbers.

    Raises:
        OptionError: The text is none of these.
    """
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


def parser() -> Parser:
    """The parser of `sweep`."""
    made = Parser(
        prog="mixquant-onnx sweep",
        usage="mixquant-onnx sweep IN.onnx --qem 1,2,4 --avg-bits 2.5..8 [options]",
        epilog="example:\n  mixquant-onnx sweep in.onnx --avg-bits 2.5..8 --data d.npz --csv curve.csv",
        description="Show size against quality for many plans of a model, which is measured once.",
    )
    made.add_argument("paths", nargs="*", metavar="IN.onnx")
    group = made.add_argument_group("Plans and report")
    group.add_argument("--qem", dest="qems", metavar="LIST", help="a plan by the rule for each: 1,2,4 or 1..4:0.5")
    group.add_argument("--avg-bits", dest="average_bits", metavar="LIST", help="a plan of so many bits for each")
    group.add_argument("--csv", type=Path, metavar="FILE", help="write the plans as CSV")
    group.add_argument("--json", type=Path, metavar="FILE", help="write the plans as JSON; - for standard output alone")
    add_figures(group)
    made.add_debug(group)
    add_options(made, without=("qem", "avg_bits"))
    return made


def main(arguments: Sequence[str]) -> int:
    """Measure once, make many plans, report and write them.

    Args:
        arguments: Command line without the name of the command.

    Returns:
        The exit code.

    Raises:
        MixquantError: As `api.sweep`.
    """
    args = parser().parse_intermixed_args(list(arguments))
    (source,) = paths_in(args, 1, "mixquant-onnx sweep")
    from mixquant_onnx.api import checked_config
    from mixquant_onnx.job import open_job
    from mixquant_onnx.model.files import load
    from mixquant_onnx.model.soundness import blamed
    from mixquant_onnx.planning.allocation import price
    from mixquant_onnx.report.inputs import Sweep
    from mixquant_onnx.tradeoff.reference import reference
    from mixquant_onnx.tradeoff.sweep import sweep

    keywords = {key: value for key, value in keywords_in(args).items() if key not in ("qem", "avg_bits")}
    qems, bits = _plans(args, keywords)
    config = checked_config(**keywords, **({"avg_bits": bits[0]} if bits else {}))
    check_table_of(keywords, {"the model": source, "the file of --csv": args.csv, "the file of --json": args.json})
    check_outputs(args.csv, args.json)
    plots = plots_of(args, "sweep")
    loaded = load(source)
    with blamed(loaded), progress_bar() as line:
        job = open_job(loaded, config)
        line.opened("sweep")(job)
        priced = price(job.searched(line), config.budget.cost, job.work, line)
        points = sweep(priced, config.budget, job.execution, job.work, qems, bits, str(source), line, _note)
        compared = reference(priced, job.execution, str(source))
    _report(Sweep(points=points, nbytes_before=loaded.nbytes, reference=compared), args, plots)
    return 0


def _report(made: Sweep, args: argparse.Namespace, plots: Sequence[Plot]) -> None:
    """Print the plans, and write the files that were asked for. Raises OutputError."""
    from rich.console import Console

    from mixquant_onnx.report.sections import parts_of, tradeoff
    from mixquant_onnx.report.terminal import show

    if args.json != STANDARD_OUTPUT:
        show(parts_of(made), Console(highlight=False))
    data = tradeoff.data(made)
    rows = data["points"]
    if args.report is not None:
        from mixquant_onnx.report.html.sweep import sweep_page

        write_text(args.report, sweep_page(data, str(args.paths[0]), command_line()))
    write_plots(plots, "sweep", data)
    if args.json is not None:
        write_json(args.json, data)
    if args.csv is not None:
        write_text(args.csv, _csv(rows))


def _plans(args: argparse.Namespace, keywords: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """The QEMs and the bits of the plans. Raises OptionError."""
    if any(goal in keywords for goal in ("max_size", "max_drop", "min_sqnr", "min_agreement", "max_kl")):
        raise OptionError("sweep takes --qem and --avg-bits; a goal is for a run")
    qems = numbers(args.qems, "--qem") if args.qems else []
    bits = numbers(args.average_bits, "--avg-bits") if args.average_bits else []
    if any(not 2 <= x <= 32 for x in bits) or any(not x > 0 for x in qems):
        raise OptionError("sweep takes bits a weight from 2 to 32 and positive QEMs")
    return qems, bits


def _note(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)


def _csv(points: Sequence[PointData]) -> str:
    from mixquant_onnx.report.sections.tradeoff import flat

    rows = [flat(point) for point in points]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
