"""Section: the quantized weights with their scheme and error, and how many are stored at each width."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mixquant_onnx.errors import counted
from mixquant_onnx.export.encodings.sizes import bits_per_weight
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.report.formats import SHOWN, decibels, finite, most_rows, print_rest, shortened, table
from mixquant_onnx.report.inputs import Run

ON_PURPOSE = (
    "Calibration moves weights on purpose, so that outputs stay right; there QE as written does not measure the loss."
)
"""How to read an error as written that is larger than that of rounding a weight by itself."""

_FAR = 2
"""Times the error of rounding a weight by itself, over which that is told."""


class PlannedTensor(TypedDict):
    """A weight tensor.

    `outputs`: first outputs of the nodes that read it. `qe`: mean squared error; `baseline_qe`: that of the baseline;
    `nbytes`: as stored.
    """

    name: str
    shape: list[int]
    dtype: str
    ops: list[str]
    nodes: list[str]
    outputs: list[str]
    scheme: str
    bits: int
    nbytes: int
    qe: float
    baseline_qe: float
    sqnr_db: float | str | None
    qe_by_bits: dict[str, float]


class TensorData(PlannedTensor, total=False):
    """A weight tensor of a run: `form` is how it is stored."""

    form: str


class Weights(TypedDict):
    """The keys of this section.

    `weights`: number of quantized weights. `average_bits`: bits per weight, scales and zero points included. `bits`:
    number of tensors at each width.
    """

    weights: int
    average_bits: float
    bits: dict[str, int]
    tensors: list[TensorData]


def data(run: Run) -> Weights:
    """The weights as planned, or as written where there is a result."""
    tensors = [_tensor(run, name, scheme) for name, scheme in run.plan.sites.items()]
    total = sum(int(np.prod(t["shape"])) for t in tensors)
    by_bits = Counter(t["bits"] for t in tensors)
    return {
        "weights": total,
        "average_bits": bits_per_weight(sum(t["nbytes"] for t in tensors), total),
        "bits": {str(bits): by_bits[bits] for bits in sorted(by_bits)},
        "tensors": tensors,
    }


def render(console: Console, data: Weights) -> None:
    """Print the tensors, lowest SQNR first, and the number of tensors at each width."""
    tensors = data["tensors"]
    if not tensors:
        return
    console.print(weights_table(tensors, console.width, most_rows(console)))
    print_rest(console, len(tensors), "tensor")
    spread = ", ".join(f"{count} at {bits} bits" for bits, count in data["bits"].items())
    console.print(f"bits: {spread}; {data['average_bits']:.2f} bits a weight on average with scales and zero points")


def _tensor(run: Run, name: str, scheme: Scheme) -> TensorData:
    site, errors = run.planned.sites[name].site, run.planned.table[name]
    cell = next(c for c in errors.candidates if c.scheme == scheme)
    qe = cell.qe if run.result is None else run.result.qe[name]
    made: TensorData = {
        "name": name,
        "shape": list(site.shape),
        "dtype": site.dtype,
        "ops": sorted({use.op for use in site.uses}),
        "nodes": [use.node for use in site.uses],
        "outputs": [reader.node.output[0] for reader in run.planned.sites[name].readers if reader.node.output],
        "scheme": str(scheme),
        "bits": scheme.bits,
        "nbytes": cell.nbytes if run.result is None else run.result.rewritten.nbytes[name],
        "qe": qe,
        "baseline_qe": errors.baseline,
        "sqnr_db": finite(_sqnr(errors.power, qe)),
        "qe_by_bits": {str(c.scheme.bits): c.qe for c in errors.candidates},
    }
    if run.result is not None:
        made["form"] = run.result.rewritten.storages[name].name
    return made


def _sqnr(power: float, qe: float) -> float:
    """SQNR in dB of mean squares. By a difference of logarithms, so that a tiny `qe` does not overflow."""
    if qe == 0:
        return math.inf
    return 10 * (math.log10(power) - math.log10(qe)) if power > 0 else -math.inf


def weights_table(tensors: Sequence[TensorData], width: int, shown: int | None = SHOWN) -> Table:
    """A table of weights, the lowest SQNR first.

    Args:
        tensors: The weights.
        width: Columns of the terminal.
        shown: Most rows; None for all.

    Returns:
        The table.
    """
    made = table(f"{counted(len(tensors), 'weight tensor')}, worst SQNR first")
    if any(map(is_moved, tensors)):
        made.caption, made.caption_justify, made.caption_style = ON_PURPOSE, "left", ""
    fixed = [
        ("shape", "left", max(5, *(len(shape_text(t)) for t in tensors))),
        ("scheme", "left", max(6, *(len(_bits_and_granularity(t)) for t in tensors))),
        ("QE", "right", 7),
        ("/ int8", "right", 6),
        ("SQNR", "right", max(7, *(len(decibels(t["sqnr_db"])) for t in tensors))),
    ]
    room = width - sum(4 + size for _, _, size in fixed) - 4
    room = min(40, max(12, room))
    made.add_column("tensor", overflow="ellipsis", no_wrap=True, width=room)
    for name, justify, size in fixed:
        made.add_column(name, justify="left" if justify == "left" else "right", no_wrap=True, width=size)
    worst = sorted(tensors, key=_order)[:shown]
    for name, t in zip(shortened([t["name"] for t in worst], room), worst, strict=True):
        made.add_row(
            escape(name),
            shape_text(t),
            _bits_and_granularity(t),
            f"{t['qe']:.1e}",
            ratio_text(t),
            decibels(t["sqnr_db"]),
        )
    return made


def is_moved(tensor: TensorData) -> bool:
    """Whether a weight is written far from its float values, as calibration may do on purpose.

    Args:
        tensor: The weight.

    Returns:
        Whether its error as written is over twice that of rounding it by itself; False for a plan.
    """
    alone = tensor["qe_by_bits"].get(str(tensor["bits"]), tensor["qe"])
    return "form" in tensor and tensor["qe"] > _FAR * alone


def _order(tensor: TensorData) -> float:
    ends: Mapping[float | str | None, float] = {"-inf": -math.inf, "inf": math.inf}
    value = tensor["sqnr_db"]
    return value if isinstance(value, (int, float)) else ends.get(value, math.inf)


def shape_text(tensor: TensorData) -> str:
    """The shape of a weight as text, such as 64x3x3x3."""
    return "x".join(map(str, tensor["shape"]))


def _bits_and_granularity(tensor: TensorData) -> str:
    return ".".join(tensor["scheme"].split(".")[:2])


def ratio_text(tensor: TensorData) -> str:
    """The error as a multiple of the baseline's, in at most 6 characters up to a million."""
    if not tensor["baseline_qe"]:
        return "-"
    ratio = tensor["qe"] / tensor["baseline_qe"]
    return f"{ratio:.2f}" if ratio < 999.995 else f"{ratio:.0f}"
