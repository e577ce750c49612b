"""What a whole process of the command takes on labelled data's models: CPU and wall seconds and peak memory, beside
their limits and, with --against, beside another commit. It reports; nothing passes or fails."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.accuracy import LOWER_IS_BETTER, ROOT, model_files
from benchmarks.timing import table, versions

CPU_LIMITS = {
    "resnet20_cifar10": 20, "silero_vad": 25, "tinygpt_bytes": 20, "magika": 20, "ppocrv4_rec": 75,
    "efficientnet_lite0": 120, "minilm_l6": 240,
}  # fmt: skip
"""CPU seconds that `--avg-bits 4 --data` may take."""

METERED = (sys.executable, "-I", str(Path(__file__).with_name("metered.py")))

PLAIN, PROMISE = "--avg-bits 4", "--max-drop 1%"


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """Seconds, bytes, and the metric's CPU seconds, which nothing else counts; `failure` is empty if all is well."""

    cpu: float = 0.0
    wall: float = 0.0
    peak: float = 0.0
    metric: float = 0.0
    failure: str = ""


FIGURES: tuple[tuple[str, Callable[[Taken], float], str], ...] = (
    ("CPU s", lambda t: t.cpu, ".1f"),
    ("wall s", lambda t: t.wall, ".1f"),
    ("peak MB", lambda t: t.peak / 1e6, ".0f"),
)


def memory_limit(model: Path) -> float:
    """In bytes."""
    return 1e9 + 3 * model.stat().st_size


def _goal(kind: str, name: str, root: Path, log: Path) -> list[str]:
    """The options of one of the two commands; a metric writes what it took to `log`."""
    if kind == PLAIN:
        return ["--avg-bits", "4"]
    metric = shlex.join([*METERED, str(log), sys.executable, str(root / "evaluate.py"), name])
    lower = ["--lower-is-better"] if name in LOWER_IS_BETTER else []
    return ["--max-drop", "1%", "--metric-command", f"{metric} {{model}}", "--metric-key", "value", *lower]


def measure(kind: str, name: str, model: Path, root: Path, code: Path, options: Sequence[str]) -> Taken:
    """One run of the command by the code of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        log, metric_log = Path(folder) / "run", Path(folder) / "metric"
        command = [
            *METERED, str(log), sys.executable, "-m", "mixquant_onnx", str(model), f"{folder}/out.onnx",
            *_goal(kind, name, root, metric_log), "--data", str(root / name / "calib.npz"), *options,
        ]  # fmt: skip
        # The working folder comes before PYTHONPATH where Python looks for the package, so both are the checkout's.
        done = subprocess.run(
            command, cwd=code, env=os.environ | {"PYTHONPATH": str(code)}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            last = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
            return Taken(failure=f"exit {done.returncode}: {''.join(last)}".replace("|", "/"))
        (whole,), metrics = _lines(log), _lines(metric_log)
    own = whole["peak"] if whole["peak"] > max((m["peak"] for m in metrics), default=0) else whole["alone"]
    metric = sum(m["cpu"] + m["meter"] for m in metrics)
    wall = whole["wall"] - sum(m["wall"] for m in metrics)
    return Taken(cpu=whole["cpu"] - metric, wall=wall, peak=own, metric=metric)


def _lines(log: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in log.read_text(encoding="utf8").splitlines()] if log.is_file() else []


def median(rounds: Sequence[Taken]) -> Taken:
    """Of each figure by itself; the first failure, if there is one."""
    failed = next((t for t in rounds if t.failure), None)
    if failed is not None:
        return failed
    figures = np.median([[t.cpu, t.wall, t.peak, t.metric] for t in rounds], axis=0)
    return Taken(**dict(zip(("cpu", "wall", "peak", "metric"), map(float, figures), strict=True)))


def row(name: str, kind: str, taken: Sequence[Taken], peak_limit: float, with_metric: bool) -> list[object]:
    """This checkout's figures, then the other's and the ratio where there is one; then the limit."""
    limits = {"CPU s": CPU_LIMITS.get(name) if kind == PLAIN else None, "peak MB": peak_limit / 1e6}
    cells: list[object] = [name, f"`{kind}`"]
    for figure, value, form in FIGURES:
        limit = limits.get(figure)
        for one in taken:
            over = " over" if limit is not None and value(one) > limit else ""
            missing = one.failure if figure == FIGURES[0][0] else "-"
            cells.append(missing if one.failure else f"{value(one):{form}}{over}")
        if len(taken) > 1:
            cells.append("-" if any(t.failure for t in taken) else f"{value(taken[0]) / value(taken[1]):.2f}")
        if figure in limits:
            cells.append("-" if limit is None else f"{limit:.0f}")
    return cells + ["-" if t.failure or kind == PLAIN else f"{t.metric:.1f}" for t in taken if with_metric]


def header(against: str | None, with_metric: bool) -> list[str]:
    """As `row` has its cells."""
    names = ["model", "command"]
    for figure, _, _ in FIGURES:
        names += [figure, *([f"{figure}, {against}", f"{figure} ratio"] if against else [])]
        names += [] if figure == "wall s" else [f"{figure} limit"]
    metric = ["metric's CPU s", *([f"metric's CPU s, {against}"] if against else [])]
    return names + (metric if with_metric else [])


@contextlib.contextmanager
def checkouts(against: str | None) -> Iterator[list[Path]]:
    """This one, and one of the commit `against`, which is removed afterwards."""
    if against is None:
        yield [ROOT]
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(tree), against], check=True, capture_output=True)
        try:
            yield [ROOT, tree]
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True, capture_output=True)


def _models(root: Path, only: str | None) -> dict[str, Path]:
    """Those of the data folder; what is neither there nor fetched is told and left out."""
    found = model_files(root, [folder.name for folder in root.iterdir()])
    wanted = {n: p for n, p in found.items() if (n in only.split(",") if only else n in CPU_LIMITS or p.is_file())}
    for name in (n for n, p in wanted.items() if not p.is_file()):
        print(f"note: {name} is skipped: run tools/fetch_models", file=sys.stderr)
    return {n: p for n, p in wanted.items() if p.is_file()}


def _rows(args: argparse.Namespace, root: Path) -> list[list[object]]:
    """Commits take turns within a round, each first in every other one."""
    rows = []
    with checkouts(args.against) as trees:
        for name, model in _models(root, args.only).items():
            for kind in (PLAIN, PROMISE) if args.promise else (PLAIN,):
                taken: dict[Path, list[Taken]] = {tree: [] for tree in trees}
                for turn in range(args.rounds):
                    for tree in trees if turn % 2 == 0 else reversed(trees):
                        taken[tree].append(measure(kind, name, model, root, tree, shlex.split(args.options)))
                medians = [median(taken[tree]) for tree in trees]
                rows.append(row(name, kind, medians, memory_limit(model), args.promise))
                print(*rows[-1], file=sys.stderr, flush=True)
    return rows


def _explained(args: argparse.Namespace) -> str:
    shown = f"mixquant-onnx IN OUT {PLAIN} --data calib.npz {args.options}".rstrip()
    lines = [
        f"Whole processes of `{shown}`; medians of {args.rounds}.",
        "CPU: user and system; peak: resident memory of the process.",
    ]
    if args.promise:
        lines.append(f"`{PROMISE} --metric-command 'evaluate.py NAME {{model}}'`: without what the metric takes.")
    if args.against:
        lines.append(f"Ratio: this checkout's figure by that of {args.against}; they take turns.")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench time", description=__doc__)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("MIXQUANT_DATA"))
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--against", metavar="COMMIT", help="the same, in turn, by the code of this commit")
    parser.add_argument("--promise", action="store_true", help=f"{PROMISE} by evaluate.py too".replace("%", "%%"))
    parser.add_argument("--rounds", type=int, default=1, help="medians of so many")
    parser.add_argument("--options", default="", help="more options of the command, in one argument")
    args = parser.parse_args(arguments)
    if args.data_root is None:
        print("time needs --data-root or MIXQUANT_DATA: a folder of labelled data", file=sys.stderr)
        return 2
    try:
        rows = _rows(args, Path(args.data_root).resolve())
    except subprocess.CalledProcessError as error:
        print(f"--against {args.against}: {error.stderr.decode().strip()}", file=sys.stderr)
        return 2
    print(f"# What a run takes\n\n{versions()}; the command has as many as it takes by default.\n")
    print(_explained(args) + "\n")
    print(table(header(args.against, args.promise), rows))
    return 0
