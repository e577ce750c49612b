"""`mixquant-onnx compare FLOAT.onnx OTHER.onnx`: whether a model may stand for another one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixquant_onnx.cli.figures import add_figures, plots_of, write_plots
from mixquant_onnx.cli.outputs import STANDARD_OUTPUT, check_outputs, command_line, write_json, write_text
from mixquant_onnx.cli.parser import Parser, add_some, paths_in
from mixquant_onnx.cli.progress import progress_bar
from mixquant_onnx.config.file import check_asked, file_of_options, options_of_file
from mixquant_onnx.config.goals import flag_of
from mixquant_onnx.config.parsing import time_limit
from mixquant_onnx.errors import OptionError, PromiseError

if TYPE_CHECKING:
    from mixquant_onnx.report.figures.save import Plot
    from mixquant_onnx.verification.comparison import Comparison

_DATA = ("data", "tokenizer", "sequence_length", "labels", "data_free")
_TARGETS = ("min_sqnr", "min_agreement", "max_drop", "max_kl")


def parser() -> Parser:
    """The parser of `compare`."""
    made = Parser(
        prog="mixquant-onnx compare",
        usage="mixquant-onnx compare FLOAT.onnx OTHER.onnx --data rows.npz [options]",
        epilog="example:\n  mixquant-onnx compare in.onnx out.onnx --data d.npz --min-agreement 99% --max-slower 1.05x",
        description="Compare a model, made by whatever tool, with the float model that it is to stand for: outputs, "
        "values inside, size, time and memory. Exit code 8: it does not load or run, has other inputs or outputs, or "
        "answers by chance; 9: a limit below is not kept. Several limits may be given.",
    )
    made.add_argument("paths", nargs="*", metavar="FLOAT.onnx OTHER.onnx")
    add_some(made, "Data", _DATA)
    add_some(made, "Limits", _TARGETS)
    group = made.add_argument_group("Time and report")
    group.add_argument("--max-slower", metavar="TIME", help="at most 1.05x of float's time with one thread, or 12 ms")
    group.add_argument("--no-benchmark", action="store_true", help="no times and no memory")
    group.add_argument(
        "--json", type=Path, metavar="FILE", help="write the comparison as JSON; - for standard output alone"
    )
    add_figures(group)
    group.add_argument(
        "--config", type=Path, metavar="FILE", help="data and labels from this file (default as for a run)"
    )
    group.add_argument("-q", "--quiet", action="store_true", help="one line")
    made.add_debug(group)
    return made


def main(arguments: Sequence[str]) -> int:
    """Compare, report, and check the limits.

    Args:
        arguments: Command line without the name of the command.

    Returns:
        The exit code.

    Raises:
        MixquantError: As `verification.compare_models.compare`, `accuracy.gates.judged` and `check_chance`.
    """
    args = parser().parse_intermixed_args(list(arguments))
    first, second = paths_in(args, 2, "mixquant-onnx compare")
    targets = {f"{flag_of(key)} {getattr(args, key)}": {key: getattr(args, key)} for key in _TARGETS if key in args}
    limit = None if args.max_slower is None else time_limit(args.max_slower, "--max-slower")
    if limit is not None and args.no_benchmark:
        raise OptionError("--max-slower needs times; leave --no-benchmark out")
    check_outputs(args.json)
    plots = plots_of(args, "compare")
    from mixquant_onnx.accuracy.gates import check_chance, judged
    from mixquant_onnx.config.config import config_of
    from mixquant_onnx.report.sections import comparison
    from mixquant_onnx.verification.compare_models import compare

    wanted = {name: config_of(**given).accuracy for name, given in targets.items()}
    given = _data_in(args)
    with progress_bar() as line:
        line.expect(("compare",))
        found = compare(first, second, benchmark=not args.no_benchmark, max_slower=limit, progress=line, **given)
    found = replace(found, limits=judged(found, wanted, limit))
    _report(found, args, plots)
    check_chance(found)
    missed = [one for one in comparison.data(found)["limits"] if not one["kept"]]
    for one in missed:
        print(f"mixquant-onnx: {comparison.limit_text(one)}", file=sys.stderr)
    return PromiseError.exit_code if missed else 0


def _data_in(args: argparse.Namespace) -> dict[str, Any]:
    """The options of data: of the command line, else of the file of options. Raises OptionError."""
    given = {key: getattr(args, key) for key in _DATA if key in args}
    found = file_of_options(args.config)
    if found is None or "data" in given or "data_free" in given:
        return given
    kept = {key: value for key, value in options_of_file(found).items() if key in _DATA}
    check_asked(found, args.config is not None, kept)
    if kept:
        print(f"mixquant-onnx: {', '.join(sorted(kept))} from {found}", file=sys.stderr)
    return {**kept, **given}


def _report(found: Comparison, args: argparse.Namespace, plots: Sequence[Plot]) -> None:
    """Print, and write the files that were asked for. Raises OutputError."""
    from rich.console import Console

    from mixquant_onnx.report.brief import comparison_line
    from mixquant_onnx.report.formats import rows_text
    from mixquant_onnx.report.sections import comparison, parts_of
    from mixquant_onnx.report.terminal import show

    data = comparison.data(found)
    if args.quiet and args.json != STANDARD_OUTPUT:
        print(comparison_line(data))
    elif args.json != STANDARD_OUTPUT:
        show(parts_of(found), Console(highlight=False))
    if found.origin != "user" and found.limits:
        print(
            f"mixquant-onnx: limits are judged on {rows_text(found.samples, found.data)}; give --data", file=sys.stderr
        )
    if args.report is not None:
        from mixquant_onnx.report.html.compare import comparison_page

        write_text(args.report, comparison_page(data, (args.paths[0], args.paths[1]), command_line()))
    write_plots(plots, "compare", data)
    if args.json is not None:
        write_json(args.json, data)
