"""One screen, or one line, on a run: made from its summary alone."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from mixquant_onnx.errors import counted
from mixquant_onnx.report.formats import decibels, print_rest, rows_text, size, sizes
from mixquant_onnx.report.quality import QualityData, ShareData
from mixquant_onnx.report.sections import compatibility, files, held, hints, integers, notes, timing
from mixquant_onnx.report.sections.comparison import ComparisonData, limit_text
from mixquant_onnx.report.sections.verification import VerificationData, title
from mixquant_onnx.report.sections.weights import weights_table
from mixquant_onnx.report.summary import Summary
from mixquant_onnx.report.tokens import tokens_text

_WORST = 5
"""Weights that are shown."""


def one_screen(summary: Summary, console: Console) -> None:
    """Print what most people want to know of a run.

    Args:
        summary: The summary.
        console: Where to print.
    """
    console.print(f"[bold]{_size(summary)}[/bold]")
    found = summary.get("verification")
    if "nbytes_after" in summary:
        _print_verification(found, console)
    if summary.get("latency"):
        timing.render(console, {"latency": summary["latency"], "memory": summary.get("memory")})
    if "integers" in summary:
        integers.render(console, {"integers": summary["integers"]})
    tensors = summary["tensors"]
    if tensors:
        console.print(weights_table(tensors, console.width, _WORST))
        print_rest(console, len(tensors), "tensor", _WORST)
    share, count = summary["left_float"]["share"], len(summary["skipped"])
    why = f" (why: -v, {counted(count, 'tensor')})" if count else ""
    console.print(f"left as float: {share:.1%} of the input's bytes{why}")
    if "releases" in summary:
        compatibility.render(console, {"opset": summary["opset"], "releases": summary["releases"]})
    if "weights_in_memory" in summary:
        held.render(console, {"weights_in_memory": summary["weights_in_memory"]})
    notes.render(console, {"notes": summary["notes"]})
    for line in found["warnings"] if found else ():
        console.print(f"[bold yellow]warning:[/bold yellow] {escape(line)}")
    hints.render(console, {"hints": summary.get("hints", [])})
    files.render(console, {"files": summary.get("files", [])})


def one_line(summary: Summary) -> str:
    """A run in one line.

    Args:
        summary: The summary.

    Returns:
        Text without a line break.
    """
    found = summary.get("verification")
    parts = [_size(summary)]
    if found and found["quality"]:
        rows = rows_text(found["samples"], found["data"]) + (", in-sample" if found["in_sample"] else "")
        parts.append(f"{quality_text(found['quality'][-1], found['float_accuracy'])}, on {rows}")
    elif found is None and "verification" in summary:
        parts.append("not verified")
    if summary.get("latency"):
        first = summary["latency"][0]
        parts.append(f"{first['written_ms'] / first['float_ms']:.2f} of float's time")
    return "; ".join([*parts, *summary.get("files", [])])


def comparison_line(data: ComparisonData) -> str:
    """A comparison in one line.

    Args:
        data: The comparison.

    Returns:
        Text without a line break.
    """
    before, after = data["nbytes"]
    rows = rows_text(data["samples"], data["data"])
    parts = [
        f"{' and '.join(sizes(before, after))} ({after / before:.1%})",
        f"{quality_text(data['quality'], data['float_accuracy'])}, on {rows}",
    ]
    if data["timing"] is not None:
        first = data["timing"]["latency"][0]
        parts.append(f"{first['written_ms'] / first['float_ms']:.2f} of float's time")
    return "; ".join([*parts, *(limit_text(limit) for limit in data["limits"])])


def _size(summary: Summary) -> str:
    before, bits = summary["nbytes_before"], f"{summary['average_bits']:.2f} bits a weight"
    spread = spread_text(summary)
    bits = f"{bits} ({spread})" if spread else "no weight quantized"
    if "nbytes_after" not in summary:
        return f"{size(before)}, {bits}"
    first, second = sizes(before, summary["nbytes_after"])
    return f"{first} -> {second} ({summary['nbytes_after'] / before:.1%}), {bits}"


def spread_text(summary: Summary) -> str:
    """How many weights have each width, as text."""
    return ", ".join(f"{count} at {width}" for width, count in summary["bits"].items())


def _print_verification(found: VerificationData | None, console: Console) -> None:
    if found is None:
        console.print("[yellow]not verified (--no-verify)[/yellow]")
        return
    if found["quality"]:
        quality = quality_text(found["quality"][-1], found["float_accuracy"])
        console.print(f"quality: [bold]{escape(quality)}[/bold], {escape(title(found))}")
    codes = f"verified: codes of {counted(found['codes'], 'tensor decodes', 'tensors decode')} exactly"
    same = found["oracle_sqnr_db"]
    console.print(codes if same is None else f"{codes}, the graph is float's with these weights ({decibels(same)})")


def quality_text(quality: QualityData, float_accuracy: float | None) -> str:
    """The quality of outputs in a few words.

    Args:
        quality: The outputs under one profile.
        float_accuracy: Top-1 accuracy of the float model; None without labels.

    Returns:
        Text without a line break.
    """
    outputs = quality["outputs"]
    broken = any(output["nan"] or output["changed_shapes"] for output in outputs)
    parts = ["NaN or other shapes" if broken else decibels(quality["sqnr_db"])]
    if quality["agreement"] is not None and quality["agreement"]["count"]:
        parts.append(f"{_share(quality['agreement'])} the same decision")
    if quality["tokens"] is not None:
        parts.append(tokens_text(quality["tokens"]))
    if quality["accuracy"] is not None and float_accuracy is not None:
        parts.append(f"accuracy {quality['accuracy']:.2%} (float {float_accuracy:.2%})")
    return ", ".join(parts)


def _share(share: ShareData) -> str:
    return f"{share['hits']} of {share['count']}" if share["share"] is None else f"{share['share']:.2%}"
