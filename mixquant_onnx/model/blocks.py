"""Blocks: the parts of a network between two values that every path with a weight passes.

Such a part has a single entry and a single exit (SESE) for all values that depend on a weight; masks, shapes and the
like may bypass it. A residual block ends at its Add; where a network is a plain chain, up to three layers make a block
(the inverted residual without its shortcut). The last layer belongs to the block before it, so that this block is
judged by the network's output.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from mixquant_onnx.model.dependencies import reads
from mixquant_onnx.model.operators import operator_of, weight_input
from mixquant_onnx.model.weights import LocatedSite, Reader

MOST_SITES = 8
"""Most weights of a block; a larger part is left to its single layers."""

_CHAIN = 3
"""Layers of a plain chain that make a block."""

_SHAPES = frozenset({"Shape", "Size"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One block.

    Args:
        nodes: Positions of its nodes in the main graph.
        inputs: Values that it takes from before, sorted.
        exit: Its one output.
        sites: Names of the weights of its layers, none of which is read anywhere else.
    """

    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    exit: str
    sites: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Flow:
    """Of each node: what it reads; of the model: which nodes depend on an input, and on an input and a weight."""

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
    model: ModelProto, sites: Mapping[str, LocatedSite], wanted: Collection[str] | None = None
) -> list[Block]:
    """The blocks of the main graph.

    Args:
        model: The model.
        sites: All its weights by name: where blocks end does not depend on which are wanted.
        wanted: Names of the weights that blocks are made of; None for all.

    Returns:
        Blocks in the order of the graph; a weight that fits none is in none.
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
    """Whether the stored numbers meet an input that can be read, in an operator that torch computes."""
    row = weight_input(reader.node, reader.index)
    moved = all(step.moves_only for step in reader.steps)
    return moved and row is not None and row.activation is not None and operator_of(reader.node).torch != ""


def _parts(model: ModelProto, flow: _Flow) -> list[list[int]]:
    """Weighted nodes between values that all weighted paths pass, in order."""
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
    """Parts joined into blocks.

    Parts without a weight go to the one before, and so does a last layer alone; single layers join up to three at a
    time. None joins one that makes an output of the network (one of the nodes `results`): a block has one exit.
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
