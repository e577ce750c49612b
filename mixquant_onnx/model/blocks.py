"""Blocks of a network, for block-wise reconstruction and sensitivities.

A block is a part of the network between two values that every path with a weight passes. It has a single entry and a
single exit (SESE) for all values that depend on a weight; masks, shapes and the like may bypass it. A residual block
ends at its Add; where a network is a plain chain, up to three layers make a block (the inverted residual without its
shortcut). The last layer belongs to the block before it, so that this block is evaluated at the network's output.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from mixquant_onnx.model.dependencies import reads
from mixquant_onnx.model.operators import operator_of, weight_input
from mixquant_onnx.model.weights import LocatedWeight, Reader

MOST_SITES = 8
"""Most weights per block; layers of a larger part are reconstructed one by one. A bound on memory and time."""

_CHAIN = 3
"""Layers of a plain chain that make a block: expansion, depthwise and projection convolution of MobileNetV2."""

_SHAPES = frozenset({"Shape", "Size"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One block.

    Attributes:
        nodes: Positions of its nodes in the main graph.
        inputs: Values that it reads from earlier nodes, sorted.
        exit: Its one output.
        sites: Names of the weights of its layers, none of which is read anywhere else.
    """

    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    exit: str
    sites: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Flow:
    """Dependencies of the nodes of a main graph.

    Attributes:
        reads: For each node, the names that it reads.
        passing: Nodes that depend on an input of the model.
        weighted: Nodes that depend on an input and on a weight.
        makers: The node that computes each value.
    """

    reads: tuple[frozenset[str], ...]
    passing: frozenset[int]
    weighted: frozenset[int]
    makers: Mapping[str, int]


def _flow(model: ModelProto, readers: set[int]) -> _Flow:
    nodes = model.graph.node
    stored = {tensor.name for tensor in model.graph.initializer}
    moving = {value.name for value in model.graph.input} - stored
    weighty: set[str] = set()
    passing, weighted = set(), set()
    every = tuple(frozenset(reads(node)) for node in nodes)
    for k, node in enumerate(nodes):
        if not every[k] & moving:
            continue
        passing.add(k)
        moving.update(node.output)
        if (k in readers or every[k] & weighty) and node.op_type not in _SHAPES:
            weighted.add(k)
            weighty.update(node.output)
    makers = {output: k for k, node in enumerate(nodes) for output in node.output if output}
    return _Flow(reads=every, passing=frozenset(passing), weighted=frozenset(weighted), makers=makers)


def find_blocks(
    model: ModelProto, sites: Mapping[str, LocatedWeight], wanted: Collection[str] | None = None
) -> list[Block]:
    """Find the blocks of the main graph.

    Args:
        model: The model.
        sites: All its weights by name; where blocks end does not depend on `wanted`.
        wanted: Names of the weights that blocks are made of; None for all.

    Returns:
        Blocks in the order of the graph. A weight outside of any block is in none.
    """
    at = {output: k for k, node in enumerate(model.graph.node) for output in node.output if output}
    owners: dict[int, list[str]] = {}
    alone = set() if wanted is None else set(sites) - set(wanted)
    for name, located in sites.items():
        places = [at.get(r.node.output[0]) if r.scope.parent is None else None for r in located.readers]
        known = {place for place in places if place is not None}
        plain = all(_is_layer(reader) for reader in located.readers)
        usable = len(places) == len(known) == 1 and plain
        if not usable:
            alone.add(name)
        for place in known:
            owners.setdefault(place, []).append(name)
    flow = _flow(model, set(owners))
    blocks = []
    results = {at[value.name] for value in model.graph.output if value.name in at}
    for part in _joined(_parts(model, flow), owners, alone, results):
        block = _block(model, flow, part, [n for k in part for n in owners.get(k, []) if n not in alone])
        if block is not None:
            blocks.append(block)
    return blocks


def _is_layer(reader: Reader) -> bool:
    """Whether the weight is used as stored, with a readable input, in an operator that torch computes."""
    row = weight_input(reader.node, reader.index)
    moved = all(step.moves_only for step in reader.steps)
    return moved and row is not None and row.activation is not None and operator_of(reader.node).torch != ""


def _parts(model: ModelProto, flow: _Flow) -> list[list[int]]:
    """Weighted nodes in order, cut at the values that all weighted paths pass."""
    last: dict[str, int] = {}
    for k in flow.weighted:
        for name in flow.reads[k]:
            last[name] = max(last.get(name, -1), k)
    parts: list[list[int]] = [[]]
    live: set[str] = set()
    for k in sorted(flow.weighted):
        parts[-1].append(k)
        live |= {output for output in model.graph.node[k].output if last.get(output, -1) > k}
        live = {name for name in live if last[name] > k}
        if len(live) == 1 and next(iter(live)) in model.graph.node[k].output:
            parts.append([])
    return [part for part in parts if part]


def _joined(
    parts: Sequence[list[int]], owners: Mapping[int, list[str]], alone: set[str], results: Collection[int]
) -> list[list[int]]:
    """Join parts into blocks.

    Parts without a weight go to the one before, and so does a single last layer; single layers join up to three at a
    time. A part is never joined to one that computes an output of the network (`results`): a block has one exit.
    """

    def count(part: list[int]) -> int:
        return sum(name not in alone for k in part for name in owners.get(k, []))

    def ends(part: list[int]) -> bool:
        return not set(part).isdisjoint(results)

    whole: list[list[int]] = []
    for part in parts:
        if whole and count(part) == 0 and not ends(whole[-1]):
            whole[-1] = whole[-1] + part
        else:
            whole.append(part)
    joined: list[list[int]] = []
    chained = False
    for part in whole:
        here, before = count(part), count(joined[-1]) if joined else 0
        most = MOST_SITES if ends(part) else _CHAIN if chained else 0
        if joined and here == 1 and before < most and not ends(joined[-1]):
            joined[-1] = joined[-1] + part
        else:
            joined.append(part)
            chained = here <= 1
    return joined


def _block(model: ModelProto, flow: _Flow, part: list[int], sites: list[str]) -> Block | None:
    if not 0 < len(sites) <= MOST_SITES:
        return None
    nodes: set[int] = set(part)
    waiting = [name for k in part for name in flow.reads[k]]
    while waiting:
        maker = flow.makers.get(waiting.pop())
        if maker is not None and maker not in flow.passing and maker not in nodes:
            nodes.add(maker)
            waiting += flow.reads[maker]
    made = {output for k in nodes for output in model.graph.node[k].output}
    read = {name for k in nodes for name in flow.reads[k]} - made
    moving = {value.name for value in model.graph.input} | set(flow.makers)
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(sorted((read & moving) - stored))
    out = {o for k in part for o in model.graph.node[k].output}
    last = {name for k in flow.passing - nodes for name in flow.reads[k]} | {v.name for v in model.graph.output}
    exits = sorted(out & last)
    if len(exits) != 1:
        return None
    return Block(nodes=tuple(sorted(nodes)), inputs=inputs, exit=exits[0], sites=tuple(sites))
