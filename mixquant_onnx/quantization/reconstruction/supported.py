"""Which operators a block may hold. Nothing here needs torch."""

from __future__ import annotations

from onnx import NodeProto

from mixquant_onnx.model.operators import operator_of


def is_known(node: NodeProto) -> bool:
    """Whether torch computes the node here: its row in `model/operators.py` has a torch function."""
    return operator_of(node).torch != ""
