"""`mixquant-onnx compare FLOAT.onnx OTHER.onnx`: whether a model may stand for another one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mixquant_onnx.cli.figures import add_figures, plots_of, write_plots
from mixquant_onnx.cli.outputs import STANDARD_OUTPUT, check_outputs, command_line, write_json, write_text
from mixquant_onnx.cli.parser import Parser, add_some, keywords_in, paths_in
from mixquant_onnx.cli.progress import progress_bar
from mixquant_onnx.config.parsing import time_limit

if TYPE_CHECKING:
    from mixquant_onnx.report.figures.save import Plot
    from mixquant_onnx.report.sections.comparison import ComparisonData

_DATA = ("data", "labels", "data_free")


def parser() -> Parser:
    """The parser of `compare`."""
    made = Parser(
        prog="mixquant-onnx compare",
        usage="mixquant-onnx compare FLOAT.onnx OTHER.onnx --data rows.npz [options]",
        epilog="example:\n  mixquant-onnx compare in.onnx out.onnx --data d.npz --min-agreement 99% --max-slower 1.05x",
        description="Compare a model, made by whatever tool, with the float model that it is to stand for: outputs, "
        "values inside, size, time and memory. Exit code 8: it does not load or run, has other inputs or outputs, or "
        "answers by chance; 9: a limit below is not kept.",
    )
    made.add_argument("paths", nargs="*", metavar="FLOAT.onnx OTHER.onnx")
    add_some(made, "Data", _DATA)
    add_some(made, "Limits", ("min_sqnr", "min_agreement", "max_drop"))
    group = made.add_argument_group("Time and report")
    group.add_argument("--max-slower", metavar="TIME", help="at most 1.05x of float's time with one thread, or 12 ms")
    group.add_argument("--no-benchmark", action="store_true", help="no times and no memory")
    group.add_argument(
        "--json", type=Path, metavar="FILE", help="write the comparison as JSON; - for standard output alone"
    )
    add_figures(group)
    made.add_debug(group)
    return made


def main(arguments: Sequence[str]) -> int:
    """Compare, report, and check the limits.

    Args:
        arguments: Command line without the name of the command.

    Returns:
        The exit code.

    Raises:
        MixquantError: As `verification.compare_models.compare` and `accuracy.gates.check_gates`.
    """
    args = parser().parse_intermixed_args(list(arguments))
    first, second = paths_in(args, 2, "mixquant-onnx compare")
    keywords = keywords_in(args)
    limit = None if args.max_slower is None else time_limit(args.max_slower, "--max-slower")
    check_outputs(args.json)
    plots = plots_of(args, "compare")
    from rich.console import Console

    from mixquant_onnx.accuracy.gates import check_gates
    from mixquant_onnx.config.config import config_of
    from mixquant_onnx.report.sections import comparison, parts_of
    from mixquant_onnx.report.terminal import show
    from mixquant_onnx.verification.compare_models import compare

    target = config_of(**keywords).accuracy
    given = {key: keywords[key] for key in _DATA if key in keywords}
    with progress_bar() as line:
        line.expect(("compare",))
        found = compare(first, second, benchmark=not args.no_benchmark, progress=line, **given)
    if args.json != STANDARD_OUTPUT:
        show(parts_of(found), Console(highlight=False))
    _write(comparison.data(found), args, plots)
    check_gates(found, target, limit)
    return 0


def _write(data: ComparisonData, args: argparse.Namespace, plots: Sequence[Plot]) -> None:
    """Write the files that were asked for. Raises OutputError."""
    if args.report is not None:
        from mixquant_onnx.report.html.compare import comparison_page

        write_text(args.report, comparison_page(data, (args.paths[0], args.paths[1]), command_line()))
    write_plots(plots, "compare", data)
    if args.json is not None:
        write_json(args.json, data)
