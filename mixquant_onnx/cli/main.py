"""The command line. Imports late, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixquant_onnx.cli.common import Parser, stoppable, write_text
from mixquant_onnx.errors import MixquantError, OptionError

if TYPE_CHECKING:
    from mixquant_onnx.events import Progress

INTERRUPTED = 130


def _widths(text: str) -> tuple[int, ...]:
    widths: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d)(?:-(\d))?", part.strip())
        if not found:
            raise OptionError(f"--bits '{text}' is not understood; write 2-8 or 4,8")
        widths += range(int(found[1]), int(found[2] or found[1]) + 1)
    return tuple(widths)


def _release(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)\.(\d+)(?:\.\d+)?", text)
    if not found:
        raise OptionError(f"--min-ort '{text}' is not a release; write for example 1.22")
    return int(found[1]), int(found[2])


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mixquant-onnx",
        usage="mixquant-onnx IN.onnx OUT.onnx [options]\n       mixquant-onnx inspect IN.onnx [options]\n"
        "       mixquant-onnx sweep IN.onnx --qem 1,2,4 --avg-bits 2.5..8 [--csv FILE] [--table FILE] [options]",
        description="Quantize the weights of an ONNX model to 2..8 bits, layer by layer (MixQuant), for stock "
        "ONNX Runtime, and prove the result. `inspect` shows what would be done and writes nothing; `sweep` shows "
        "size against quality for many plans (--csv, --json; --table keeps what was measured, --from-table reuses it).",
    )
    parser.add_argument("paths", nargs="*", metavar="IN.onnx OUT.onnx", help="may be the same file")
    search = parser.add_argument_group("search")
    search.add_argument(
        "--qem", type=float, default=2.0, metavar="X",
        help="a tensor's error may be X times that of plain int8; larger is smaller and less exact (default 2)",
    )  # fmt: skip
    search.add_argument(
        "--scope", default="layer", choices=("layer", "model"),
        help="layer (default): the rule for each tensor; model: the same sum of relative errors, spent at fewest bytes",
    )  # fmt: skip
    search.add_argument(
        "--rule", default="safe", choices=("safe", "paper"),
        help="safe (default): no tensor below what its outputs can stand; paper: the rule to the letter",
    )  # fmt: skip
    search.add_argument("--bits", default="2-8", help="allowed widths: 2-8 (default), or a list such as 4,8")
    search.add_argument(
        "--method", default="auto",
        help="minmax (or asymmetric), mse, hqq; with --data gptq, adaround, brecq; auto (default): gptq with --data",
    )  # fmt: skip
    search.add_argument("--granularity", default="channel", help="tensor, channel (default), block:N or auto")
    search.add_argument("--symmetric", action="store_true", help="symmetric ranges, one zero point")
    search.add_argument(
        "--baseline", default="int8", choices=("int8", "same"),
        help="what QEM multiplies: the error of plain int8 (default), or of the same quantizer at 8 bits",
    )  # fmt: skip
    search.add_argument(
        "--rounding", default="compensated", choices=("compensated", "nearest"),
        help="compensated (default): a few weights are rounded the other way so that outputs keep their mean",
    )  # fmt: skip
    search.add_argument("--seed", type=int, default=0, metavar="N", help="of brecq (0)")
    search.add_argument("--iterations", type=int, default=500, metavar="N", help="of brecq, a block (500)")
    search.add_argument(
        "--resume", type=Path, metavar="DIR", help="brecq keeps finished blocks here, and takes them up"
    )
    search.add_argument("--include", action="append", default=[], metavar="PATTERN", help="only these tensors or nodes")
    search.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="not these; both may repeat")
    search.add_argument("--min-size", type=int, default=256, metavar="N", help="smaller tensors stay float (256)")
    goal = parser.add_argument_group("goal (instead of --qem; the least error, or the smallest file)")
    goal.add_argument("--avg-bits", type=float, metavar="X", help="X bits a weight, scales and zero points counted")
    goal.add_argument("--max-size", metavar="SIZE", help="a file of at most 5MB, or 25%% of the input")
    goal.add_argument("--max-drop", metavar="SHARE", help="lose at most 1%% of the float accuracy (labels or metric)")
    goal.add_argument("--min-sqnr", type=float, metavar="DB", help="outputs at least so near to float's on --data")
    goal.add_argument("--min-agreement", metavar="SHARE", help="the same class as float for 99%% of the rows of --data")
    goal.add_argument("--metric-command", metavar="CMD", help="prints a figure for {model}; its last line counts")
    goal.add_argument("--metric-key", metavar="KEY", help="which figure, where that line is JSON")
    goal.add_argument("--lower-is-better", action="store_true", help="of the figure")
    goal.add_argument("--metric-timeout", type=float, default=1800.0, metavar="S", help="seconds for a command (1800)")
    goal.add_argument(
        "--cost", default="auto", choices=("auto", "energy", "hessian", "output", "block"),
        help="what a budget minimises; auto (default): whichever does best on some rows of --data, else energy",
    )  # fmt: skip
    form = parser.add_argument_group("form of the file")
    form.add_argument(
        "--target", default="ort", choices=("ort", "qdq"),
        help="ort (default): never slower on ONNX Runtime; qdq: DequantizeLinear everywhere, for other runtimes",
    )  # fmt: skip
    form.add_argument(
        "--fused", default="auto", choices=("auto", "always", "never"),
        help="MatMul on low-bit kernels: auto (default): where the model's shapes tell of one row; always: faster on "
        "processors with VNNI, slower on others with many rows; never: all at float speed",
    )  # fmt: skip
    form.add_argument("--exact", action="store_true", help="no rounding of activations: the same as --fused never")
    form.add_argument("--native-types", action="store_true", help="only widths that ONNX has types for (2, 4, 8)")
    form.add_argument(
        "--min-ort", default=None, metavar="X.Y",
        help="the oldest onnxruntime that must load the file and not be slower than float (default 1.25)",
    )  # fmt: skip
    proof = parser.add_argument_group("proof and report")
    proof.add_argument("--data", type=Path, metavar="PATH", help=".npz with the inputs by name, or a folder of them")
    proof.add_argument("--labels", type=Path, metavar="FILE", help="classes of the rows of --data (or its key labels)")
    proof.add_argument(
        "--eval-data", type=Path, metavar="PATH",
        help="rows to judge by, as --data, with labels in its key labels; else some rows of --data are held back",
    )  # fmt: skip
    proof.add_argument(
        "--data-free", action="store_true",
        help="without --data: no proxy inputs (photographs, texts, sounds that stand in for yours), only noise",
    )  # fmt: skip
    proof.add_argument("--no-verify", action="store_true", help="write without proof")
    proof.add_argument("--json", type=Path, metavar="FILE", help="write the summary as JSON")
    proof.add_argument("--plan", type=Path, metavar="FILE", help="write the plan, to edit and replay")
    proof.add_argument("--apply", type=Path, metavar="FILE", help="replay a plan; search options do not count")
    proof.add_argument("--blocks", action="store_true", help="inspect: show the blocks found in the graph, for brecq")
    proof.add_argument("--allow-unchanged", action="store_true", help="exit 0 even when nothing was quantized")
    proof.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="version", version=_version())
    return parser


def _version() -> str:
    import mixquant_onnx

    return f"mixquant-onnx {mixquant_onnx.__version__}"


def _options(args: argparse.Namespace) -> dict[str, Any]:
    options = {
        name: getattr(args, name)
        for name in (
            "qem", "scope", "avg_bits", "max_size", "max_drop", "min_sqnr", "min_agreement", "metric_key",
            "lower_is_better", "metric_timeout", "cost", "method", "granularity", "symmetric", "baseline",
            "include", "exclude", "min_size", "target", "fused", "exact", "native_types", "data", "labels", "eval_data",
            "rounding", "allow_unchanged", "data_free", "rule", "seed", "iterations", "resume",
        )
    }  # fmt: skip
    options["bits"] = _widths(args.bits)
    options["metric"] = args.metric_command
    options["verify"] = not args.no_verify
    if args.min_ort is not None:
        options["min_ort"] = _release(args.min_ort)
    return options


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr while something takes long; nothing where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:9}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("search", total=None)

        def advance(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=max(total, 1))

        yield advance


def _write(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=1) + "\n")


def _run(args: argparse.Namespace) -> int:
    paths: list[str] = args.paths
    inspecting = (bool(paths) and paths[0] == "inspect" and len(paths) != 2) or paths[:1] == ["inspect"]
    if inspecting:
        paths = paths[1:]
    wanted = 1 if inspecting else 2
    if len(paths) != wanted:
        raise OptionError(
            f"{wanted} file name{'s' * (wanted > 1)} expected, {len(paths)} given; see mixquant-onnx --help"
        )
    if args.blocks and not inspecting:
        raise OptionError("--blocks belongs to inspect; a run with --method brecq says what became of its blocks")
    options = _options(args)
    source = Path(paths[0])
    output = None if inspecting else Path(paths[1])
    for path in (output, args.json, args.plan):
        if path is not None:
            from mixquant_onnx.model.files import check_writable

            check_writable(path)
    from rich.console import Console

    from mixquant_onnx import run as goals
    from mixquant_onnx.api import check_data, options_of, read_plan
    from mixquant_onnx.model.files import load
    from mixquant_onnx.pipeline import execute
    from mixquant_onnx.planning.plan import fit_plan
    from mixquant_onnx.report.inputs import Run
    from mixquant_onnx.report.sections import parts_of
    from mixquant_onnx.report.summary import summary_of
    from mixquant_onnx.report.terminal import show

    console = Console(highlight=False)
    chosen = options_of(**options)
    given = None if args.apply is None else read_plan(args.apply)
    if given is not None and (chosen.promise.wanted or chosen.max_size is not None or chosen.avg_bits is not None):
        raise OptionError(
            "--apply replays a plan as it is; a goal (--max-drop, --max-size, ...) makes one: give one of them"
        )
    if given is not None and output is not None:
        check_data(given, chosen)
    loaded = load(source)
    with _progress() as progress:
        if given is not None:
            planned = fit_plan(loaded, given, chosen, progress)
            result = None if output is None else execute(planned, chosen, output, str(source), progress)
        elif output is None:
            planned, result = goals.plan(loaded, chosen, progress), None
        else:
            planned, result = goals.run(loaded, chosen, output, str(source), progress, console.print)
    if args.plan is not None:
        _write(args.plan, (planned if result is None else result).plan.to_json())
    parts = parts_of(Run(planned=planned, result=result, blocks=args.blocks))
    show(parts, console)
    if args.json is not None:
        _write(args.json, summary_of(parts))
    return 0


def _sweep(arguments: list[str]) -> int:
    from mixquant_onnx.cli.sweep import run_sweep, split_arguments

    own, rest = split_arguments(arguments)
    args = _parser().parse_args(rest)
    if len(args.paths) != 1:
        raise OptionError(f"sweep takes 1 file name, {len(args.paths)} given; see mixquant-onnx --help")
    return run_sweep(own, _options(args), Path(args.paths[0]), _progress)


def main(argv: Sequence[str] | None = None) -> int:
    """The console command; gives back the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with stoppable():
        try:
            if arguments[:1] == ["sweep"] and not {"-h", "--help"} & set(arguments):
                return _sweep(arguments[1:])
            return _run(_parser().parse_args(arguments))
        except MixquantError as error:
            if "--debug" in arguments:
                raise
            print(f"mixquant-onnx: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print("mixquant-onnx: interrupted; nothing was written", file=sys.stderr)
            return INTERRUPTED
        except MemoryError:
            print("mixquant-onnx: not enough memory for this model; use a larger machine", file=sys.stderr)
            return 1


if __name__ == "__main__":
    raise SystemExit(main())
