"""The files that the commands write and replay, and the report that they print. Imports nothing slow."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixquant_onnx.cli.figures import Command, add_figures, plots_of, write_plots
from mixquant_onnx.cli.parser import Parser
from mixquant_onnx.errors import OptionError, check_folder, writing

if TYPE_CHECKING:
    from mixquant_onnx.config.config import Config
    from mixquant_onnx.planning.plan import Plan
    from mixquant_onnx.report.figures.save import Plot
    from mixquant_onnx.report.inputs import Run
    from mixquant_onnx.report.sections.verification import VerificationData


STANDARD_OUTPUT = Path("-")
"""In place of a file: the JSON goes to standard output, and nothing else does."""


def add_report(made: Parser) -> None:
    """Add the options for files that quantize and inspect write beside the model."""
    group = made.add_argument_group("Plan and report")
    group.add_argument(
        "--json", type=Path, metavar="FILE", help="write the summary as JSON; - for standard output alone"
    )
    add_figures(group)
    group.add_argument("--overlay", type=Path, metavar="DIR", help="write bits, errors, bytes for Model Explorer")
    group.add_argument("--plan", type=Path, metavar="FILE", help="write the plan, to edit and replay")
    group.add_argument("--apply", type=Path, metavar="FILE", help="replay a plan; search options do not count")
    group.add_argument("-v", "--verbose", action="store_true", help="all tables")
    group.add_argument("-q", "--quiet", action="store_true", help="one line")
    made.add_debug(group)


def named_files(args: argparse.Namespace) -> dict[str, Path | None]:
    """The files of `add_report`, by what messages call them.

    Args:
        args: The options of `add_report`.

    Returns:
        Paths; None for options that were not given.
    """
    return {f"the file of --{name}": getattr(args, name) for name in ("json", "report", "plan", "apply")}


def check_outputs(*paths: Path | None, model: Path | None = None) -> None:
    """Check early that files can be written.

    Args:
        *paths: The files; None for those that were not requested.
        model: The file that a model is written to.

    Raises:
        OutputError: One of them cannot be written.
    """
    from mixquant_onnx.model.files import check_writable

    if model is not None:
        check_writable(model, model=True)
    for path in paths:
        if path is not None and path != STANDARD_OUTPUT:
            check_writable(path)


def check_report(args: argparse.Namespace, command: Command = "run") -> list[Plot]:
    """Check early that the files of `add_report` can be made and written.

    Args:
        args: The options of `add_report`.
        command: Whose figures.

    Returns:
        The figures of --plot.

    Raises:
        OptionError: Packages are missing, or a figure is not known.
        OutputError: A file cannot be written.
    """
    check_outputs(args.json, args.plan)
    if args.overlay is not None:
        check_folder(args.overlay)
    return plots_of(args, command)


def wants_detail(args: argparse.Namespace) -> bool:
    """Whether a file is written of the summary, or of figures.

    Args:
        args: The options of `add_report`.
    """
    return any((args.json, args.report, args.overlay, args.plot))


def command_line() -> str:
    """The command that runs, to be repeated in a shell."""
    return shlex.join(["mixquant-onnx", *sys.argv[1:]])


def check_table_of(keywords: Mapping[str, Any], files: Mapping[str, Path | None]) -> None:
    """Check early that the file of --table can be one, and is none of the other files.

    Args:
        keywords: The options that were given.
        files: The other files by what messages call them; None for those that were not requested.

    Raises:
        OptionError: It is one of `files`.
        OutputError: It cannot be written.
    """
    if "table" in keywords:
        from mixquant_onnx.planning.table_file import check_table

        check_table(Path(keywords["table"]), files)


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
    from mixquant_onnx.planning.plan_file import read_plan

    plan = read_plan(path)
    if config.accuracy.wanted or config.budget.max_size is not None or config.budget.avg_bits is not None:
        raise OptionError(
            "--apply replays a plan as it is; a goal (--max-drop, --max-size, ...) makes one: give one of them"
        )
    return plan


def report(run: Run, plan: Plan, args: argparse.Namespace, plots: Sequence[Plot]) -> None:
    """Write the files of `add_report`, and print the report.

    Args:
        run: What there is to report.
        plan: The plan that was made.
        args: The options of `add_report`.
        plots: What `check_report` gave.

    Raises:
        OutputError: A file cannot be written.
    """
    from rich.console import Console

    from mixquant_onnx.report.brief import one_line, one_screen
    from mixquant_onnx.report.formats import WholeConsole
    from mixquant_onnx.report.overlay import overlays
    from mixquant_onnx.report.sections import parts_of
    from mixquant_onnx.report.summary import summary_of
    from mixquant_onnx.report.terminal import show

    if args.plan is not None:
        write_json(args.plan, plan.to_json())
    parts = parts_of(run)
    summary, console = summary_of(parts), Console(highlight=False)
    if args.overlay is not None:
        for name, overlay in overlays(summary).items():
            write_json(args.overlay / f"{name}.json", overlay)
    if args.report is not None:
        from mixquant_onnx.report.html.run import run_page

        write_text(args.report, run_page(summary, str(args.paths[0]), command_line()))
    write_plots(plots, "run", summary)
    if args.json is not None:
        write_json(args.json, summary)
    if args.quiet or args.json == STANDARD_OUTPUT:
        _warn(summary.get("verification"))
    if args.json == STANDARD_OUTPUT:
        return
    if args.quiet:
        print(one_line(summary))
    elif args.verbose or run.result is None:
        show(parts, WholeConsole(highlight=False) if args.verbose else console)
    else:
        one_screen(summary, console)


def _warn(found: VerificationData | None) -> None:
    """Warnings on stderr, where no report shows them."""
    for line in found["warnings"] if found else ():
        print(f"mixquant-onnx: warning: {line}", file=sys.stderr)


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file.

    Args:
        path: The file, or STANDARD_OUTPUT.
        data: What `json` can write.

    Raises:
        OutputError: It cannot be written.
    """
    text = json.dumps(data, indent=1) + "\n"
    if path == STANDARD_OUTPUT:
        print(text, end="")
    else:
        write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8.

    Args:
        path: The file.
        text: Its content.

    Raises:
        OutputError: It cannot be written.
    """
    with writing(path):
        path.write_text(text, encoding="utf8")
