"""Where float constants are stored: initializers, Constant nodes, and places that no rewrite can reach."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, numpy_helper

from mixquant_onnx.model.operators import domain_of
from mixquant_onnx.model.scopes import Scope

FLOAT_TYPES = {
    int(TensorProto.FLOAT): "float32",
    int(TensorProto.FLOAT16): "float16",
    int(TensorProto.BFLOAT16): "bfloat16",
    int(TensorProto.DOUBLE): "float64",
}
"""NumPy names of the ONNX float types that weights may have."""
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}


@dataclass(frozen=True, eq=False, slots=True)
class Source:
    """Where a constant is stored.

    Attributes:
        scope: The scope that stores it.
        name: Its name there.
        tensor: The tensor.
        node: The Constant node; None for an initializer.
        floats: The attribute value_floats of that node, of which `tensor` is a copy.
    """

    scope: Scope
    name: str
    tensor: TensorProto
    node: NodeProto | None
    floats: AttributeProto | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """Floats that are not weights because of where they are stored: a sparse tensor, an attribute of a node.

    Attributes:
        name: Name of the tensor, or label of the node and attribute.
        reason: Why it is no weight, for reports.
        elements: Number of values.
        nbytes: Their size in bytes.
    """

    name: str
    reason: str
    elements: int
    nbytes: int


def label(node: NodeProto) -> str:
    """The name of a node in messages: its own, or its operator and first output."""
    return node.name or f"{node.op_type}->{next(iter(node.output), '')}"


def elements_of(tensor: TensorProto) -> int:
    """Number of values of a tensor."""
    return math.prod(tensor.dims)


def nbytes_of(tensor: TensorProto) -> int:
    """Size in bytes of the values of a float tensor."""
    return elements_of(tensor) * _BYTES[FLOAT_TYPES[tensor.data_type]]


def sources(scope: Scope) -> Iterator[Source]:
    """The constants of a scope, of every type.

    Args:
        scope: The scope; inner scopes are not searched.

    Yields:
        Constants in the order of storage.
    """
    body = scope.body
    if isinstance(body, GraphProto):
        for tensor in body.initializer:
            yield Source(scope, tensor.name, tensor, None)
    for node in body.node:
        if node.op_type != "Constant" or domain_of(node) != "":
            continue
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.HasField("t"):
                yield Source(scope, node.output[0], attribute.t, node)
            elif attribute.name == "value_floats" and not attribute.ref_attr_name:
                values = np.asarray(attribute.floats, np.float32)
                yield Source(scope, node.output[0], numpy_helper.from_array(values, node.output[0]), node, attribute)


def tensors_of(scope: Scope) -> dict[str, TensorProto]:
    """The tensors that a scope stores, by name: its initializers, and the `value` of its Constant nodes."""
    return {source.name: source.tensor for source in sources(scope) if source.floats is None}


def names_of(scopes: list[Scope]) -> dict[tuple[int, str], str]:
    """Names of constants in plans.

    Args:
        scopes: Those of `walk`.

    Returns:
        For (id of the scope, name): the name, prefixed with the path of its scope where several constants share it.
    """
    stored = [(scope, source.name) for scope in scopes for source in sources(scope)]
    counts: dict[str, int] = {}
    for _, name in stored:
        counts[name] = counts.get(name, 0) + 1
    return {(id(scope), name): name if counts[name] == 1 else f"{scope.path}::{name}" for scope, name in stored}


def fixed(scopes: list[Scope]) -> Iterator[Fixed]:
    """Floats outside of `sources`: sparse initializers and attributes of nodes.

    Args:
        scopes: Those of `walk`.

    Yields:
        One entry for each tensor or list of floats.
    """
    for scope in scopes:
        if isinstance(scope.body, GraphProto):
            for sparse in scope.body.sparse_initializer:
                yield _of_tensor(sparse.values.name, "sparse initializer", sparse.values)
        for node in scope.body.node:
            yield from _attributes(scope, node)


def _attributes(scope: Scope, node: NodeProto) -> Iterator[Fixed]:
    for attribute in node.attribute:
        name = "::".join(part for part in (scope.path, f"{label(node)}.{attribute.name}") if part)
        reason = f"attribute '{attribute.name}' of {node.op_type}"
        if attribute.HasField("sparse_tensor"):
            yield _of_tensor(node.output[0], "sparse Constant", attribute.sparse_tensor.values)
        plain = node.op_type == "Constant" and attribute.name in ("value", "value_floats")
        if plain:
            continue
        if attribute.floats:
            count = len(attribute.floats)
            yield Fixed(name=name, reason=reason, elements=count, nbytes=4 * count)
        for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
            if tensor.data_type in FLOAT_TYPES:
                yield _of_tensor(name, reason, tensor)


def _of_tensor(name: str, reason: str, tensor: TensorProto) -> Fixed:
    nbytes = nbytes_of(tensor) if tensor.data_type in FLOAT_TYPES else 0
    return Fixed(name=name, reason=reason, elements=elements_of(tensor), nbytes=nbytes)


def float_nbytes(scopes: list[Scope]) -> dict[str, int]:
    """Size of every float constant of a model, small ones included.

    Args:
        scopes: Those of `walk`.

    Returns:
        Bytes by the names of `find`.
    """
    names = names_of(scopes)
    found: dict[str, int] = {}
    for scope in scopes:
        for source in sources(scope):
            if source.tensor.data_type in FLOAT_TYPES:
                found[names[id(scope), source.name]] = nbytes_of(source.tensor)
    for other in fixed(scopes):
        found[other.name] = found.get(other.name, 0) + other.nbytes
    return found
