"""The summary as tables in a terminal (rich)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mixquant_onnx.report.quality import decibels as _decibels
from mixquant_onnx.report.quality import show_quality
from mixquant_onnx.report.summary import finite
from mixquant_onnx.tradeoff import Point
from mixquant_onnx.verification.statistics import FEW_ROWS

SHOWN = 12


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _tensors(summary: dict[str, Any], title: str, width: int) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    fixed = [
        ("shape", "left", max(5, *(len(_shape(t)) for t in summary["tensors"]))),
        ("scheme", "left", max(6, *(len(_width_and_grid(t)) for t in summary["tensors"]))),
        ("QE", "right", 7),
        ("/ int8", "right", 6),
        ("SQNR", "right", 7),
    ]
    room = width - sum(4 + size for _, _, size in fixed) - 4
    table.add_column("tensor", overflow="ellipsis", no_wrap=True, width=min(40, max(12, room)))
    for name, justify, size in fixed:
        table.add_column(name, justify="left" if justify == "left" else "right", no_wrap=True, width=size)
    key = {"-inf": -1e9, "inf": 1e9}
    worst = sorted(summary["tensors"], key=lambda t: key.get(t["sqnr_db"], t["sqnr_db"]))
    for t in worst[:SHOWN]:
        ratio = "-" if not t["baseline_qe"] else f"{t['qe'] / t['baseline_qe']:.2f}"
        table.add_row(
            escape(_short(t["name"])),
            _shape(t),
            _width_and_grid(t),
            f"{t['qe']:.1e}",
            ratio,
            _decibels(t["sqnr_db"]),
        )
    return table


def _short(name: str, width: int = 36) -> str:
    return name if len(name) <= width else "…" + name[1 - width :]


def _shape(tensor: dict[str, Any]) -> str:
    return "x".join(map(str, tensor["shape"]))


def _width_and_grid(tensor: dict[str, Any]) -> str:
    return ".".join(tensor["scheme"].split(".")[:2])


def _left(console: Console, count: int, what: str) -> None:
    if count > SHOWN:
        console.print(f"  … and {count - SHOWN} more {what} (all of them in --json FILE)")


def show_plan(summary: dict[str, Any], console: Console) -> None:
    """Tensors (worst SQNR first), the distribution of bits, and what stays float and why."""
    if summary["tensors"]:
        console.print(_tensors(summary, f"{len(summary['tensors'])} weight tensors, worst SQNR first", console.width))
        _left(console, len(summary["tensors"]), "tensors")
        spread = ", ".join(f"{count} at {bits} bits" for bits, count in summary["bits"].items())
        console.print(
            f"bits: {spread}; {summary['average_bits']:.2f} bits a weight on average with scales and zero points"
        )
    if summary["skipped"]:
        by_reason: dict[str, list[str]] = {}
        for entry in summary["skipped"]:
            by_reason.setdefault(entry["reason"], []).append(entry["name"])
        table = Table(title="left as float", title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
        table.add_column("reason")
        table.add_column("tensors", justify="right")
        table.add_column("for example", overflow="ellipsis", no_wrap=True)
        for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1]))[:SHOWN]:
            table.add_row(escape(reason), str(len(names)), escape(_short(names[0])))
        console.print(table)
        _left(console, len(by_reason), "reasons")
    console.print(f"left as float: {summary['left_float']['share']:.1%} of the file's bytes, small tensors included")


def show_blocks(blocks: Sequence[dict[str, Any]], console: Console) -> None:
    """One row a block: where it ends, its weights, its operators."""
    table = Table(title="blocks", title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    for name in ("ends at", "weights", "operators"):
        table.add_column(name, overflow="fold")
    for block in blocks:
        place = "(in no block)" if block["exit"] is None else block["exit"]
        marked = " ".join(f"{name}*" if name in block["unknown"] else name for name in block["operators"])
        table.add_row(escape(place), escape(" ".join(block["weights"])), escape(marked))
    console.print(table)
    if any(block["unknown"] for block in blocks):
        console.print("* not known to --method brecq: its block stays with its layers' own solution")


def show_sweep(points: Sequence[Point], nbytes: int, console: Console) -> None:
    """One row a plan, smallest first; a star for those on the Pareto front."""
    table = Table(title="size against quality", title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    for name in ("", "plan", "size", "of input", "bits", "SQNR", "agreement", "accuracy"):
        table.add_column(name, justify="left" if name in ("plan", "") else "right", no_wrap=True)
    for p in points:
        agreement = None if p.rows < FEW_ROWS else p.top1_agreement
        shares = ["-" if v is None else f"{v:.2%}" for v in (agreement, p.accuracy)]
        sqnr = _decibels(finite(p.sqnr_db))
        table.add_row(
            "*" if p.pareto else "", p.setting, _size(p.nbytes), f"{p.nbytes / nbytes:.1%}",
            f"{p.average_bits:.2f}", sqnr, *shares,
        )  # fmt: skip
    console.print(table)
    console.print("* no other plan is both smaller and better")
    rows, data = max(((p.rows, p.data) for p in points), default=(0, ""))
    if rows:
        console.print(f"quality: deployed, on {rows} {data or 'rows'}")
    if 0 < rows < FEW_ROWS:
        console.print(f"agreement is told from {FEW_ROWS} rows of --data on")


def show_notes(summary: dict[str, Any], console: Console) -> None:
    for note in summary["notes"]:
        console.print(f"note: {escape(note)}")


def show_run(summary: dict[str, Any], console: Console) -> None:
    """`show_plan`, then sizes, proof and quality."""
    show_plan(summary, console)
    before, after = summary["nbytes_before"], summary["nbytes_after"]
    console.print(f"size: {_size(before)} -> [bold]{_size(after)}[/bold] ({after / before:.1%} of the input)")
    releases = summary["releases"]
    console.print(
        f"onnxruntime: loads from {releases['loads_from']}, not slower than float from {releases['not_slower_from']}"
        f"; opset {summary['opset']['before']} -> {summary['opset']['after']}"
    )
    show_notes(summary, console)
    proof = summary["verification"]
    if proof is None:
        console.print("[yellow]not verified (--no-verify)[/yellow]")
        return
    console.print(
        f"proof: codes of {proof['codes']} tensors decode exactly ({proof['decoder']}); against the float graph with "
        f"the same weights: {_decibels(proof['oracle_sqnr_db'])}"
    )
    show_quality(proof, console)
