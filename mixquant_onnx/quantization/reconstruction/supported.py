"""Operators that a block may contain. Does not need torch."""

from __future__ import annotations

from onnx import NodeProto

from mixquant_onnx.model.operators import operator_of


def is_known(node: NodeProto) -> bool:
    """Whether a node can be computed in torch: its row in `model/operators.py` has a torch function."""
    return operator_of(node).torch != ""
