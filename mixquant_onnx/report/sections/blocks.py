"""Section: the blocks of the graph, which brecq reconstructs one by one."""

from __future__ import annotations

from typing import TypedDict

from rich.console import Console
from rich.markup import escape

from mixquant_onnx.model.blocks import find_blocks
from mixquant_onnx.quantization.reconstruction.supported import is_known
from mixquant_onnx.report.formats import table
from mixquant_onnx.report.inputs import Run


class BlockData(TypedDict):
    """A block, from its `inputs` to the value `exit`; `exit` is null for the weights that are in no block.

    `unknown`: its operators that are not supported in torch; brecq quantizes the layers of such a block one by one.
    """

    exit: str | None
    inputs: list[str]
    weights: list[str]
    operators: list[str]
    unknown: list[str]


class Blocks(TypedDict):
    """The key of this section."""

    blocks: list[BlockData]


def data(run: Run) -> Blocks | None:
    """The blocks in order, then the planned weights that are in none; None if they were not requested."""
    if not run.blocks:
        return None
    model = run.planned.loaded.model
    blocks = find_blocks(model, run.planned.sites, run.plan.sites)
    nodes = model.graph.node
    made: list[BlockData] = [
        {
            "exit": block.exit,
            "inputs": list(block.inputs),
            "weights": list(block.sites),
            "operators": sorted({nodes[k].op_type for k in block.nodes} - {"Constant"}),
            "unknown": sorted({nodes[k].op_type for k in block.nodes if not is_known(nodes[k])}),
        }
        for block in blocks
    ]
    inside = {name for block in blocks for name in block.sites}
    alone = [name for name in run.plan.sites if name not in inside]
    if alone:
        made.append({"exit": None, "inputs": [], "weights": alone, "operators": [], "unknown": []})
    return {"blocks": made}


def render(console: Console, data: Blocks) -> None:
    """Print one row per block: its exit, its weights, its operators."""
    made = table("blocks")
    for name in ("ends at", "weights", "operators"):
        made.add_column(name, overflow="fold")
    for block in data["blocks"]:
        place = "(in no block)" if block["exit"] is None else block["exit"]
        marked = " ".join(f"{name}*" if name in block["unknown"] else name for name in block["operators"])
        made.add_row(escape(place), escape(" ".join(block["weights"])), escape(marked))
    console.print(made)
    if any(block["unknown"] for block in data["blocks"]):
        console.print("* not known to --method brecq: the layers of its block are solved one by one")
