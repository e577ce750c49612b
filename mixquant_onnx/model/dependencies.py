"""Dependencies of nodes on values."""

from __future__ import annotations

from onnx import NodeProto

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
