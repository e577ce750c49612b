"""Insert encoded weights where the stored ones were: tensors at the same positions, equal ones once in each graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

from mixquant_onnx.export.encodings.builder import Encoded
from mixquant_onnx.model.tensor_data import raw_bytes
from mixquant_onnx.model.weights import Source


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Replacement:
    """A stored tensor, and what replaces it."""

    source: Source
    encoded: Encoded


def put_in_place(replacements: Sequence[Replacement]) -> None:
    """Remove stored tensors from their graphs and insert what computes them.

    New initializers take the position of the old one (those of a Constant node come before all others), so that the
    order of all others does not change. New nodes come at the start of the graph.

    Args:
        replacements: The tensors; their graphs are changed.
    """
    by_graph: dict[int, list[Replacement]] = {}
    for replacement in replacements:
        by_graph.setdefault(id(replacement.source.scope), []).append(replacement)
    for own in by_graph.values():
        _put_into(own[0].source.scope.body, own)


def _put_into(body: GraphProto | FunctionProto, replacements: Sequence[Replacement]) -> None:
    places: dict[str, int] = {}
    if isinstance(body, GraphProto):
        places = {tensor.name: position for position, tensor in enumerate(body.initializer)}
    _remove_constants(body, {r.source.name for r in replacements if r.source.node is not None})
    ordered = sorted(replacements, key=lambda r: places.get(r.source.name, -1))
    nodes: list[NodeProto] = []
    shared = _Shared()
    stored: list[tuple[int, Source, list[TensorProto]]] = []
    for replacement in ordered:
        source, encoded = replacement.source, replacement.encoded
        own = shared.without_copies(encoded)
        stored.append((places.get(source.name, -1), source, own))
        if isinstance(body, FunctionProto):
            nodes += [_constant_of(tensor) for tensor in own]
        nodes += encoded.nodes
    for node in reversed(nodes):
        body.node.insert(0, node)
    if isinstance(body, GraphProto):
        for position, source, tensors in reversed(stored):
            if source.node is None:
                del body.initializer[position]
            for tensor in reversed(tensors):
                body.initializer.insert(max(position, 0), tensor)


def _constant_of(tensor: TensorProto) -> NodeProto:
    """A Constant node that gives `tensor` under its name."""
    node = NodeProto(op_type="Constant", output=[tensor.name])
    attribute = node.attribute.add(name="value", type=AttributeProto.TENSOR)
    attribute.t.CopyFrom(tensor)
    attribute.t.ClearField("name")
    return node


def _remove_constants(body: GraphProto | FunctionProto, names: set[str]) -> None:
    for position in range(len(body.node) - 1, -1, -1):
        if names & set(body.node[position].output):
            del body.node[position]


_Content = tuple[int, tuple[int, ...], bytes, bytes]


class _Shared:
    """The tensors of one graph by their content."""

    def __init__(self) -> None:
        self._known: dict[_Content, str] = {}

    def without_copies(self, encoded: Encoded) -> list[TensorProto]:
        """The tensors that the graph does not contain yet; nodes that would read a copy read the existing one."""
        new, renamed = [], {}
        for tensor in (*encoded.tensors, *encoded.tables):
            key = _content(tensor)
            if key in self._known:
                renamed[tensor.name] = self._known[key]
            else:
                self._known[key] = tensor.name
                new.append(tensor)
        for node in encoded.nodes:
            for position, name in enumerate(node.input):
                node.input[position] = renamed.get(name, name)
        return new


def _content(tensor: TensorProto) -> _Content:
    """Everything of a tensor but its name, its data as a digest of 256 bits."""
    rest = TensorProto(doc_string=tensor.doc_string, metadata_props=tensor.metadata_props)
    data = blake2b(raw_bytes(tensor), digest_size=32).digest()
    return tensor.data_type, tuple(tensor.dims), data, rest.SerializeToString(deterministic=True)
