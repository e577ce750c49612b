"""Section: what was checked on the written model, and how close its outputs are to the float model's."""

from __future__ import annotations

from typing import TypedDict

from rich.console import Console
from rich.markup import escape

from mixquant_onnx.errors import counted
from mixquant_onnx.report.formats import decibels, finite, rows_text
from mixquant_onnx.report.inputs import Run
from mixquant_onnx.report.quality import Interval, QualityData, interval, quality_data
from mixquant_onnx.report.quality_text import print_parts, profiles
from mixquant_onnx.verification.result import Verification


class VerificationData(TypedDict):
    """A `verification.result.Verification`. `oracle_sqnr_db` is its `reference_sqnr_db`; `data` its `data_name`.

    `origin` is null where no samples were compared.
    """

    codes: int
    decoder: str
    oracle_sqnr_db: float | str | None
    samples: int
    synthetic: bool
    origin: str | None
    data: str
    in_sample: bool
    optimism_db: float | str | None
    float_accuracy: float | None
    float_accuracy_interval: Interval | None
    quality: list[QualityData]
    warnings: list[str]


class VerificationPart(TypedDict):
    """The key of this section; null where the model was written without verification (--no-verify)."""

    verification: VerificationData | None


def data(run: Run) -> VerificationPart | None:
    """The verification of a run; None where nothing was run."""
    if run.result is None:
        return None
    found = run.result.verification
    return {"verification": None if found is None else _data(found)}


def render(console: Console, data: VerificationPart) -> None:
    """Print what was checked, the quality of the outputs, then warnings."""
    found = data["verification"]
    if found is None:
        console.print("[yellow]not verified (--no-verify)[/yellow]")
        return
    console.print(
        f"verified: codes of {counted(found['codes'], 'tensor decodes', 'tensors decode')} exactly "
        f"({found['decoder']}); against the float graph with the same weights: {decibels(found['oracle_sqnr_db'])}"
    )
    if found["quality"]:
        console.print(escape(title(found)))
        console.print(profiles(found["quality"], found["float_accuracy"]))
        print_parts(found["quality"][-1]["outputs"], console)
    for line in found["warnings"]:
        console.print(f"[bold yellow]warning:[/bold yellow] {escape(line)}")


def title(found: VerificationData) -> str:
    """The samples on which outputs were compared, and what the comparison is worth.

    Args:
        found: The verification.

    Returns:
        One line.
    """
    text = f"against the float model, {rows_text(found['samples'], found['data'])}"
    if found["origin"] == "noise":
        return f"{text}: shows that the rewrite is right, says nothing about accuracy"
    if found["origin"] == "proxy":
        text += " (not your data)"
    if found["in_sample"]:
        text += "; in-sample: the weights were fitted to these rows"
        less = found["optimism_db"]
        text += f", expect about {less:.1f} dB less on other rows" if isinstance(less, float) else ""
    return text


def _data(found: Verification) -> VerificationData:
    return {
        "codes": found.codes,
        "decoder": found.decoder,
        "oracle_sqnr_db": finite(found.reference_sqnr_db),
        "samples": found.samples,
        "synthetic": found.synthetic,
        "origin": found.origin if found.samples else None,
        "data": found.data_name,
        "in_sample": found.in_sample,
        "optimism_db": finite(found.optimism_db),
        "float_accuracy": found.float_accuracy,
        "float_accuracy_interval": interval(found.float_accuracy_share),
        "quality": [quality_data(q, found.origin == "user") for q in found.quality],
        "warnings": list(found.warnings),
    }
