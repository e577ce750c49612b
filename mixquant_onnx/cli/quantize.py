"""`mixquant-onnx [quantize] IN.onnx OUT.onnx`: quantize, verify, write, report."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixquant_onnx.cli.parser import Parser, add_options, keywords_in, paths_in, write_text
from mixquant_onnx.cli.progress import progress_bar
from mixquant_onnx.errors import OptionError

if TYPE_CHECKING:
    from mixquant_onnx.config.config import Config
    from mixquant_onnx.planning.plan import Plan


def parser() -> Parser:
    """The parser of `quantize`."""
    made = Parser(
        prog="mixquant-onnx",
        usage="mixquant-onnx [quantize] IN.onnx OUT.onnx [options]\n       mixquant-onnx inspect IN.onnx [options]\n"
        "       mixquant-onnx sweep IN.onnx --qem 1,2,4 --avg-bits 2.5..8 [options]",
        description="Quantize the weights of an ONNX model to 2..8 bits, layer by layer (MixQuant), for stock ONNX "
        "Runtime, and verify the result. `inspect` shows what would be done and writes nothing; `sweep` shows size "
        "against quality for many plans. `mixquant-onnx inspect --help` and `mixquant-onnx sweep --help` tell more.",
    )
    made.add_argument("paths", nargs="*", metavar="IN.onnx OUT.onnx", help="may be the same file")
    add_options(made)
    add_report(made)
    made.add_argument("--blocks", action="store_true", help=argparse.SUPPRESS)
    made.add_argument("--version", action="version", version=_version())
    return made


def add_report(made: Parser) -> None:
    """Add the options for files that quantize and inspect write beside the model."""
    group = made.add_argument_group("Plan and report")
    group.add_argument("--json", type=Path, metavar="FILE", help="write the summary as JSON")
    group.add_argument("--plan", type=Path, metavar="FILE", help="write the plan, to edit and replay")
    group.add_argument("--apply", type=Path, metavar="FILE", help="replay a plan; search options do not count")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


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
    check_outputs(output, args.json, args.plan)
    from rich.console import Console

    from mixquant_onnx import run
    from mixquant_onnx.api import check_data, checked_config, replayed
    from mixquant_onnx.model.files import load
    from mixquant_onnx.report.inputs import Run
    from mixquant_onnx.report.sections import parts_of
    from mixquant_onnx.report.summary import summary_of
    from mixquant_onnx.report.terminal import show

    console = Console(highlight=False)
    config = checked_config(**keywords)
    given = plan_to_replay(args.apply, config)
    if given is not None:
        check_data(given, config)
    loaded = load(source)
    with progress_bar() as progress:
        if given is not None:
            planned, result = replayed(loaded, given, config, output, str(source), progress)
        else:
            planned, result = run.run(loaded, config, output, str(source), progress, console.print)
    if args.plan is not None:
        write_json(args.plan, result.plan.to_json())
    parts = parts_of(Run(planned=planned, result=result))
    show(parts, console)
    if args.json is not None:
        write_json(args.json, summary_of(parts))
    return 0


def check_outputs(*paths: Path | None) -> None:
    """Check early that files can be written.

    Args:
        *paths: The files; None for those that were not requested.

    Raises:
        OutputError: One of them cannot be written.
    """
    from mixquant_onnx.model.files import check_writable

    for path in paths:
        if path is not None:
            check_writable(path)


def plan_to_replay(path: Path | None, config: Config) -> Plan | None:
    """The plan of --apply.

    Args:
        path: The file; None if the option was not given.
        config: The other options.

    Returns:
        The plan; None if the option was not given.

    Raises:
        OptionError: There is also a budget or an accuracy target.
        PlanError: The file is not a plan.
    """
    if path is None:
        return None
    from mixquant_onnx.api import read_plan

    plan = read_plan(path)
    if config.accuracy.wanted or config.budget.max_size is not None or config.budget.avg_bits is not None:
        raise OptionError(
            "--apply replays a plan as it is; a goal (--max-drop, --max-size, ...) makes one: give one of them"
        )
    return plan


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file.

    Args:
        path: The file.
        data: What `json` can write.

    Raises:
        OutputError: It cannot be written.
    """
    write_text(path, json.dumps(data, indent=1) + "\n")
