"""`mixquant-onnx [quantize] IN.onnx OUT.onnx`: quantize, verify, write, report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mixquant_onnx.cli.outputs import (
    STANDARD_OUTPUT,
    add_report,
    check_outputs,
    check_report,
    check_table_of,
    named_files,
    plan_to_replay,
    report,
    wants_detail,
)
from mixquant_onnx.cli.parser import Parser, add_options, keywords_in, paths_in
from mixquant_onnx.cli.progress import progress_bar
from mixquant_onnx.cli.signals import told_if_written
from mixquant_onnx.errors import OptionError


def parser() -> Parser:
    """The parser of `quantize`."""
    made = Parser(
        prog="mixquant-onnx",
        usage="mixquant-onnx [quantize] IN.onnx OUT.onnx [options]\n       mixquant-onnx inspect IN.onnx [options]\n"
        "       mixquant-onnx sweep IN.onnx --qem 1,2,4 --avg-bits 2.5..8 [options]\n"
        "       mixquant-onnx compare FLOAT.onnx OTHER.onnx --data rows.npz [options]",
        description="Quantize the weights of an ONNX model to 2..8 bits, layer by layer (MixQuant), for stock ONNX "
        "Runtime, and verify the result.",
        epilog="examples:\n"
        "  mixquant-onnx in.onnx out.onnx                                     # by the rule, without data\n"
        "  mixquant-onnx in.onnx out.onnx --max-drop 1% --data d.npz --labels y.npy\n"
        "  mixquant-onnx in.onnx out.onnx --for speed --data d.npz            # layers on 8-bit integers\n"
        "  mixquant-onnx inspect in.onnx                                      # what would be done\n"
        "  mixquant-onnx sweep in.onnx --avg-bits 2.5..8 --data d.npz         # size against quality\n"
        "  mixquant-onnx compare in.onnx out.onnx --data d.npz                # for any tool's file\n"
        "  mixquant-onnx diff a.json b.json                                   # of two plans",
    )
    made.add_argument("paths", nargs="*", metavar="IN.onnx OUT.onnx", help="may be the same file")
    add_options(made)
    add_report(made)
    made.add_argument("--blocks", action="store_true", help=argparse.SUPPRESS)
    made.add_argument("--version", action="version", version=_version())
    return made


def _version() -> str:
    import mixquant_onnx

    return f"mixquant-onnx {mixquant_onnx.__version__}"


def main(arguments: Sequence[str]) -> int:
    """Quantize, verify, write and report.

    Args:
        arguments: Command line without the name of the command.

    Returns:
        The exit code.

    Raises:
        MixquantError: As `api.quantize`.
    """
    args = parser().parse_intermixed_args(list(arguments))
    source, output = paths_in(args, 2, "mixquant-onnx")
    if args.blocks:
        raise OptionError("--blocks belongs to inspect; a run with --method brecq says what became of its blocks")
    keywords = keywords_in(args)
    check_table_of(keywords, {"the model": source, "the output": output, **named_files(args)})
    check_outputs(model=output)
    plots = check_report(args)
    from mixquant_onnx import run
    from mixquant_onnx.accuracy.search import silent
    from mixquant_onnx.api import check_data, checked_config, replayed
    from mixquant_onnx.cli.stages import stages_of
    from mixquant_onnx.model.files import load
    from mixquant_onnx.report.inputs import Run

    config = checked_config(**keywords)
    given = plan_to_replay(args.apply, config)
    if given is not None:
        check_data(given, config)
    loaded = load(source)
    with told_if_written(output):
        with progress_bar() as line:
            if given is not None:
                line.expect(stages_of(config, "replay", None))
                planned, result = replayed(loaded, given, config, output, str(source), line)
            else:
                # Not by a Console of rich, which would write into the line of progress.
                tell = silent if args.quiet or args.json == STANDARD_OUTPUT else print
                planned, result = run.run(loaded, config, output, str(source), line, tell, line.opened("quantize"))
        report(
            Run(planned=planned, result=result, detail=wants_detail(args), options=keywords), result.plan, args, plots
        )
    return 0
