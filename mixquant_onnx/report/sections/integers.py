"""Section: the layers that run on integers."""

from __future__ import annotations

from typing import TypedDict

from rich.console import Console

from mixquant_onnx.export.encodings.int8_kernel import Int8Kernel
from mixquant_onnx.export.encodings.lstm_kernel import LstmKernel
from mixquant_onnx.report.inputs import Run


class IntegerData(TypedDict):
    """Layers on integer kernels.

    `layers` of `weights` weights; how `ranges` of activations were found; the strength by which channels are equalized
    (`balance`, 0 for none); `in_float`: layers that stay in float because rounding around them costs most;
    `overflowing`: layers whose results may differ on processors without VNNI, None where that was not checked.
    """

    layers: int
    weights: int
    ranges: str
    balance: float
    in_float: list[str]
    overflowing: list[str] | None


class Integers(TypedDict):
    """The key of this section."""

    integers: IntegerData


def data(run: Run) -> Integers | None:
    """The integer layers of the written model; None without any."""
    result = run.result
    if result is None or result.form.integer is None:
        return None
    proof, storages = result.verification, result.rewritten.storages
    return {
        "integers": {
            "layers": sum(isinstance(storage, Int8Kernel | LstmKernel) for storage in storages.values()),
            "weights": len(storages),
            "ranges": str(result.plan.settings.get("activation_ranges", "")),
            "balance": float(result.plan.settings.get("balance", 0.0)),
            "in_float": list(result.plan.settings.get("in_float", ())),
            "overflowing": None if proof is None else list(proof.overflowing),
        }
    }


def render(console: Console, data: Integers) -> None:
    """Print one line."""
    found = data["integers"]
    ranges = "ranges of each run" if found["ranges"] == "dynamic" else f"ranges by {found['ranges']}"
    line = f"on 8-bit integers: {found['layers']} of {found['weights']} weights, {ranges}"
    if found["balance"]:
        line += f", channels equalized ({found['balance']:g})"
    if found["in_float"]:
        line += f", {len(found['in_float'])} kept in float for accuracy (--no-guard to round all)"
    if found["overflowing"]:
        line += f"; {len(found['overflowing'])} of them are right on processors with VNNI alone (--cpu any is for all)"
    elif found["overflowing"] is not None:
        line += "; the same results with VNNI and without"
    console.print(line)
