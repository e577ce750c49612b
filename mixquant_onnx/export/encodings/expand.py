"""Nodes in place of calls of decoder functions, for runtimes that know no functions of a model.

Not by `onnx.inliner`: names, and so the bytes of a file, are known before the model is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto

from mixquant_onnx.export.encodings.builder import Encoded, FreshName


def expanded(encoded: Encoded, fresh: FreshName) -> Encoded:
    """A weight without calls of functions.

    Args:
        encoded: The weight.
        fresh: Gives an unused name.

    Returns:
        The same with the nodes of the functions; their constants are tables.
    """
    known = {(function.domain, function.name): function for function in encoded.functions}
    nodes: list[NodeProto] = []
    for node in encoded.nodes:
        function = known.get((node.domain, node.op_type))
        nodes += [node] if function is None else _nodes_of(node, function, fresh)
    tables = {id(node): table for node in nodes if (table := _table(node, fresh)) is not None}
    others = [node for node in nodes if id(node) not in tables]
    renamed = {node.output[0]: tables[id(node)].name for node in nodes if id(node) in tables}
    for node in others:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
    return replace(encoded, nodes=tuple(others), functions=(), tables=tuple(tables.values()))


def _table(node: NodeProto, fresh: FreshName) -> TensorProto | None:
    """The tensor of a Constant, named by its content so that all weights give it names of one length."""
    value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
    if value is None:
        return None
    made = TensorProto()
    made.CopyFrom(value)
    made.name = fresh(f"mixquant.{blake2b(made.SerializeToString(deterministic=True), digest_size=4).hexdigest()}")
    return made


def _nodes_of(call: NodeProto, function: FunctionProto, fresh: FreshName) -> Iterator[NodeProto]:
    """The body of a function for one call."""
    names = dict(zip(function.input, call.input, strict=False)) | dict(zip(function.output, call.output, strict=True))
    given = {attribute.name: attribute for attribute in call.attribute}
    for inner in function.node:
        for output in inner.output:
            if output not in names:
                names[output] = fresh(f"{call.output[0]}.{output}")
        made = NodeProto(op_type=inner.op_type, domain=inner.domain)
        made.input.extend(names.get(name, "") for name in inner.input)
        made.output.extend(names[name] for name in inner.output)
        made.attribute.extend(filled for one in inner.attribute if (filled := _filled(one, given)) is not None)
        yield made


def _filled(attribute: AttributeProto, given: dict[str, AttributeProto]) -> AttributeProto | None:
    """An attribute with the value of the call's in place of a reference; None where the call has none."""
    if not attribute.ref_attr_name:
        return attribute
    if attribute.ref_attr_name not in given:
        return None
    made = AttributeProto()
    made.CopyFrom(given[attribute.ref_attr_name])
    made.name = attribute.name
    return made
