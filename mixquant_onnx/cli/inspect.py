"""`mixquant-onnx inspect IN.onnx`: what quantize would do."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mixquant_onnx.cli.outputs import (
    STANDARD_OUTPUT,
    add_report,
    check_report,
    check_table_of,
    named_files,
    plan_to_replay,
    report,
    wants_detail,
)
from mixquant_onnx.cli.parser import Parser, add_options, keywords_in, paths_in
from mixquant_onnx.cli.progress import progress_bar
from mixquant_onnx.config.config import all_options

_OF_RUNS = ("max_drop", "min_sqnr", "min_agreement", "max_kl")
"""Goals that take runs to meet."""


def parser() -> Parser:
    """The parser of `inspect`."""
    made = Parser(
        prog="mixquant-onnx inspect",
        usage="mixquant-onnx inspect IN.onnx [options]",
        epilog="example:\n  mixquant-onnx inspect in.onnx --avg-bits 4 --data d.npz",
        description="Show the weights of a model, their errors at each width and the plan. Nothing is written but "
        "what --json, --plan and --table ask for.",
    )
    made.add_argument("paths", nargs="*", metavar="IN.onnx")
    add_options(made, without=("benchmark", *_OF_RUNS))
    for keyword in _OF_RUNS:
        _hide(made, keyword)
    add_report(made)
    made.add_argument("--blocks", action="store_true", help="show the blocks found in the graph, for brecq")
    return made


def _hide(made: Parser, keyword: str) -> None:
    """An option that is understood, to be refused with a reason, but in no help."""
    one = next(one for one in all_options() if one.keyword == keyword)
    made.add_argument(one.flag, dest=keyword, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def main(arguments: Sequence[str]) -> int:
    """Plan and report; nothing is written but what --json, --plan and --table ask for.

    Args:
        arguments: Command line without the name of the command.

    Returns:
        The exit code.

    Raises:
        MixquantError: As `api.inspect`.
    """
    args = parser().parse_intermixed_args(list(arguments))
    (source,) = paths_in(args, 1, "mixquant-onnx inspect")
    keywords = keywords_in(args)
    check_table_of(keywords, {"the model": source, **named_files(args)})
    plots = check_report(args, "inspect")
    from mixquant_onnx import run
    from mixquant_onnx.api import checked_config
    from mixquant_onnx.model.files import load
    from mixquant_onnx.planning.planned import fit_plan, size_of
    from mixquant_onnx.report.formats import size
    from mixquant_onnx.report.inputs import Run

    config = checked_config(**keywords)
    given = plan_to_replay(args.apply, config)
    loaded = load(source)
    with progress_bar() as line:
        if given is not None:
            planned = fit_plan(loaded, given, config.selection.min_size, config.form, line)
        else:
            planned = run.plan(loaded, config, line, line.opened("inspect"))
    made = Run(planned=planned, blocks=args.blocks, detail=wants_detail(args), options=keywords)
    report(made, planned.plan, args, plots)
    if not args.quiet and args.json != STANDARD_OUTPUT:
        nbytes = size_of(planned)
        print(f"expected size: about {size(nbytes)} ({nbytes / loaded.nbytes:.1%} of the input)")
    return 0
