"""Section: bytes of weights that a session holds, where they are held as codes (`--for memory`)."""

from __future__ import annotations

from collections import Counter
from typing import TypedDict

from rich.console import Console

from mixquant_onnx.export.encodings.packed_kernel import PackedKernel
from mixquant_onnx.model.constants import nbytes_of
from mixquant_onnx.report.formats import size
from mixquant_onnx.report.inputs import Run
from mixquant_onnx.result import RunResult


class HeldData(TypedDict):
    """Bytes of all quantized weights in a session, by their shapes: what they take, what they took as floats.

    `unpacked`: the part that is unpacked to float at load, of layers without a kernel on codes; `operators`: how many
    weights of these each operator reads.
    """

    held: int
    float: int
    unpacked: int
    operators: dict[str, int]


class Held(TypedDict):
    """The keys of this section."""

    weights_in_memory: HeldData


def data(run: Run) -> Held | None:
    """Bytes of the written model's weights; None where they are not held as codes."""
    if run.result is None or run.result.form.fused != "packed" or not run.result.quantized:
        return None
    result = run.result
    packed = {name: one for name, one in result.rewritten.storages.items() if isinstance(one, PackedKernel)}
    floats = {name: nbytes_of(result.sites[name].source.tensor) for name in result.quantized}
    unpacked = {name: nbytes for name, nbytes in floats.items() if name not in packed}
    held = sum(_kernel_bytes(result, name, one) for name, one in packed.items())
    operators = Counter(result.sites[name].site.uses[0].op for name in unpacked)
    whole: HeldData = {
        "held": held + sum(unpacked.values()), "float": sum(floats.values()), "unpacked": sum(unpacked.values()),
        "operators": dict(operators),
    }  # fmt: skip
    return {"weights_in_memory": whole}


def _kernel_bytes(result: RunResult, name: str, how: PackedKernel) -> int:
    """Codes, and a float32 scale and a zero point for each block, twice where two kernels read them."""
    shape = result.sites[name].site.shape
    rows, length = shape if how.by_row else shape[::-1]
    groups = -(-length // how.kernel.block)
    stored = length if how.reads == "table" else groups * how.kernel.block
    params = rows * (4 * groups + -(-groups * how.kernel.bits // 8))
    return rows * stored * how.kernel.bits // 8 + params * (2 if how.reads == "both" else 1)


def render(console: Console, data: Held) -> None:
    """Print one line."""
    found = data["weights_in_memory"]
    line = f"memory: weights take {size(found['held'])} in a session, {found['held'] / found['float']:.0%} of float's"
    if found["unpacked"]:
        which = ", ".join(f"{count} of {op}" for op, count in found["operators"].items())
        line += f"; {size(found['unpacked'])} of it unpacked to float, as no kernel reads codes there ({which})"
    console.print(line)
