"""Dependencies of nodes on values, and what a change of nodes leaves to do."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onnx import GraphProto, ModelProto, NodeProto

from mixquant_onnx.model.scopes import subgraphs


def reads(node: NodeProto) -> set[str]:
    """All names that a node may read, those inside its subgraphs included.

    Args:
        node: The node.

    Returns:
        Names of its inputs, and of all that nodes and outputs of its subgraphs refer to (defined there or outside).
    """
    return {name for name in node.input if name} | read_inside(node)


def read_inside(node: NodeProto) -> set[str]:
    """All names that the subgraphs of a node may read.

    Args:
        node: The node.

    Returns:
        Names of all that nodes and outputs of its subgraphs refer to (defined there or outside).
    """
    names = set[str]()
    for _, graph in subgraphs(node):
        for inner in graph.node:
            names |= reads(inner)
        names.update(value.name for value in graph.output)
    return names


def set_nodes(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    """Replace all nodes of a graph.

    Args:
        graph: The graph; it is changed.
        nodes: The new ones, copied; some of them may be the graph's own.
    """
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def unread_initializers(model: ModelProto) -> set[str]:
    """Names of the initializers of the main graph that no node reads, and that are no input or output of it."""
    named = {value.name for value in [*model.graph.output, *model.graph.input]}
    return {tensor.name for tensor in model.graph.initializer} - named.union(*(reads(n) for n in model.graph.node))


def drop_initializers(model: ModelProto, names: Collection[str]) -> None:
    """Take initializers out of the main graph.

    Args:
        model: The model; it is changed.
        names: Their names.
    """
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name in names:
            del model.graph.initializer[index]
