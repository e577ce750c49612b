"""--report and --plot: figures as a page and as single files. Imports nothing slow."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mixquant_onnx.errors import OptionError

if TYPE_CHECKING:
    from mixquant_onnx.report.figures.save import Plot
    from mixquant_onnx.report.figures.style import Figure

Command = Literal["run", "inspect", "sweep", "compare"]
"""Whose figures."""

PACKAGES = ("altair", "vl_convert", "jinja2")
"""What the extra `report` installs."""

_ENDINGS = (".png", ".svg")
_PAGES = (".html", ".htm")

Data = TypeVar("Data")


def add_figures(group: Any) -> None:
    """Add the options.

    Args:
        group: A group of an argparse parser.
    """
    group.add_argument("--report", type=Path, metavar="FILE", help="write a report with figures, one HTML file")
    group.add_argument(
        "--plot", action="append", default=[], metavar="[FIGURE=]FILE",
        help="write one figure as .png or .svg; may be given several times",
    )  # fmt: skip


def plots_of(args: argparse.Namespace, command: Command) -> list[Plot]:
    """The figures of --plot, after an early check that they and the report can be made and written.

    Args:
        args: The options of `add_figures`.
        command: Whose figures.

    Returns:
        Figures and files.

    Raises:
        OptionError: Packages are missing, or a figure or the kind of a file is not known to this command.
        OutputError: A file cannot be written.
    """
    if args.report is None and not args.plot:
        return []
    if not all(find_spec(name) for name in PACKAGES):
        option = "--report" if args.report is not None else "--plot"
        raise OptionError(f"{option} needs altair, vl-convert-python and jinja2: pip install 'mixquant-onnx[report]'")
    if args.report is not None and args.report.suffix.lower() not in _PAGES:
        raise OptionError(f"--report {args.report}: a report is a page; end its name in .html")
    from mixquant_onnx.model.files import check_writable

    plots = _parsed(args.plot, figures_of(command))
    for path in [*([] if args.report is None else [args.report]), *(plot.path for plot in plots)]:
        check_writable(path)
    return plots


def figures_of(command: Command) -> Mapping[str, Figure[Any]]:
    """The figures by name.

    Args:
        command: Whose figures.

    Returns:
        A table.
    """
    if command == "sweep":
        from mixquant_onnx.report.figures.sweep import SWEEP_FIGURES

        return SWEEP_FIGURES
    if command == "compare":
        from mixquant_onnx.report.figures.compare import COMPARISON_FIGURES

        return COMPARISON_FIGURES
    from mixquant_onnx.report.figures.run import PLAN_FIGURES, RUN_FIGURES

    return PLAN_FIGURES if command == "inspect" else RUN_FIGURES


def _parsed(texts: Sequence[str], figures: Mapping[str, Figure[Any]]) -> list[Plot]:
    from mixquant_onnx.report.figures.save import Plot

    plots = []
    for text in texts:
        name, sign, file = text.partition("=")
        named = bool(sign) and (name in figures or re.fullmatch("[a-z_]+", name) is not None)
        if not named:
            name, file = "", text
        path = Path(file)
        if path.suffix not in _ENDINGS or (named and name not in figures):
            raise OptionError(f"--plot {text}: write FILE.png, FILE.svg or FIGURE=FILE.png, of {', '.join(figures)}")
        plots.append(Plot(figure=name or _default(figures), path=path))
    return plots


def _default(figures: Mapping[str, Figure[Any]]) -> str:
    return next(name for name, figure in figures.items() if figure.default)


def write_plots(plots: Sequence[Plot], command: Command, data: Any) -> None:
    """Write single figures; those with nothing to show are named on stderr.

    Args:
        plots: Figures and files.
        command: Whose figures.
        data: The summary.

    Raises:
        OutputError: A file cannot be written.
    """
    if not plots:
        return
    from mixquant_onnx.report.figures.save import save

    for plot in plots:
        if not save(plot, figures_of(command), data):
            print(f"mixquant-onnx: no {plot.path}: nothing to show in figure {plot.figure}", file=sys.stderr)
