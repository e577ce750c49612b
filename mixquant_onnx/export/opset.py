"""Raise the opset of a model node by node with onnx.version_converter; everything else stays unchanged.

Converting the whole model loses functions, metadata and doc strings (onnx.version_converter works on a C++ copy of the
graph). Therefore only nodes whose operator changed between the two opsets are converted, each in a model of its own,
and put back.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import (
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    version_converter,
)

from mixquant_onnx.model.constants import elements_of, tensors_of
from mixquant_onnx.model.operators import domain_of
from mixquant_onnx.model.scopes import Scope, subgraphs, walk
from mixquant_onnx.model.skeleton import SMALL, types_of, without_data


class CannotConvert(Exception):
    """A model cannot be raised to an opset; the message names the node that prevents it."""


def import_domain(body: ModelProto | FunctionProto, domain: str, version: int = 1) -> None:
    """Import a domain of operators, where that is not done already.

    Args:
        body: A model or a function; it is changed.
        domain: Name of the domain.
        version: Its version.
    """
    if not any(entry.domain == domain for entry in body.opset_import):
        body.opset_import.append(helper.make_opsetid(domain, version))


def opset_of(model: ModelProto) -> int:
    """Version of the default domain; 1 where the model declares none."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def _since(op: str, version: int) -> int:
    try:
        return int(onnx.defs.get_schema(op, version, "").since_version)
    except onnx.defs.SchemaError as error:
        raise CannotConvert(f"operator {op} is not defined at opset {version}") from error


def _small_constants(scope: Scope) -> dict[str, TensorProto]:
    found = {} if scope.parent is None else _small_constants(scope.parent)
    return found | {name: tensor for name, tensor in tensors_of(scope).items() if elements_of(tensor) <= SMALL}


def _convert_node(
    node: NodeProto,
    types: dict[str, ValueInfoProto],
    constants: dict[str, TensorProto],
    current: int,
    target: int,
    fresh: Callable[[str], str],
) -> list[NodeProto]:
    """The node at opset `target`: itself, or the nodes that replace it."""
    inputs, initializers = [], []
    for name in dict.fromkeys(n for n in node.input if n):
        if name in constants:
            tensor = TensorProto()
            tensor.CopyFrom(constants[name])
            tensor.name = name
            initializers.append(tensor)
            inputs.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        else:
            inputs.append(types.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    outputs = [
        types.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output if name
    ]
    bare = NodeProto()
    bare.CopyFrom(node)
    bare.ClearField("doc_string")
    graph = helper.make_graph([bare], "one", inputs, outputs, initializers)
    single = helper.make_model(graph, opset_imports=[helper.make_opsetid("", current)], ir_version=8)
    try:
        converted = version_converter.convert_version(single, target)
    except Exception as error:  # the converter raises RuntimeError, ConvertError and assertion texts
        reason = str(error).strip().splitlines()[-1][:160] if str(error).strip() else "no adapter"
        raise CannotConvert(f"{node.op_type} '{node.name or node.output[0]}': {reason}") from error
    return _spliced(node, converted.graph, fresh)


def _spliced(node: NodeProto, graph: GraphProto, fresh: Callable[[str], str]) -> list[NodeProto]:
    if len(graph.node) == 1:
        only = graph.node[0]
        known = list(only.input) == list(node.input) and list(only.output) == list(node.output)
        if known and only.op_type == node.op_type:
            return [_with_attributes(node, only)]
    known_names = {*node.input, *node.output}
    renamed: dict[str, str] = {}

    def name_of(name: str) -> str:
        if not name or name in known_names:
            return name
        return renamed.setdefault(name, fresh(f"{node.output[0]}.{name}"))

    result = []
    for tensor in graph.initializer:
        if tensor.name not in known_names:
            result.append(helper.make_node("Constant", [], [name_of(tensor.name)], value=tensor))
    for new in graph.node:
        copy = NodeProto()
        copy.CopyFrom(new)
        copy.ClearField("input")
        copy.ClearField("output")
        copy.input.extend(name_of(name) for name in new.input)
        copy.output.extend(name_of(name) for name in new.output)
        if new.op_type == node.op_type:
            copy.name, copy.doc_string = node.name, node.doc_string
            copy.metadata_props.extend(node.metadata_props)
        result.append(copy)
    return result


def _with_attributes(node: NodeProto, converted: NodeProto) -> NodeProto:
    """`node` with the attributes that the converter gave it."""
    copy = NodeProto()
    copy.CopyFrom(node)
    before = {a.name: a.SerializeToString(deterministic=True) for a in node.attribute}
    after = {a.name: a.SerializeToString(deterministic=True) for a in converted.attribute}
    if before != after:
        copy.ClearField("attribute")
        copy.attribute.extend(converted.attribute)
    return copy


def raise_opset(model: ModelProto, target: int, fresh: Callable[[str], str]) -> None:
    """Convert a model in place; nothing is done where it has that opset or a later one.

    Args:
        model: The model; its functions are converted too.
        target: Version of the default domain.
        fresh: Gives an unused name.

    Raises:
        CannotConvert: A node has no conversion; `model` is unchanged then.
    """
    current = opset_of(model)
    if current >= target:
        return
    changes: list[tuple[Scope, dict[int, list[NodeProto]]]] = []
    types: dict[str, ValueInfoProto] | None = None
    for scope in walk(model):
        own = max(_opset_of_scope(scope, current), 1)
        constants = _small_constants(scope)
        converted: dict[int, list[NodeProto]] = {}
        for position, node in enumerate(scope.body.node):
            if own >= target or _is_the_same(node, own, target):
                continue
            types = types_of(model) if types is None else types
            converted[position] = _convert_node(node, types, constants, own, target, fresh)
        changes.append((scope, converted))
    for scope, converted in reversed(changes):
        if converted:
            _replace(scope, converted)
    _set_version(model, target)


def conversion_bytes(model: ModelProto, target: int, fresh: Callable[[str], str]) -> int | None:
    """Bytes that `raise_opset` adds to a model.

    Args:
        model: The model; not changed.
        target: Version of the default domain.
        fresh: Gives an unused name.

    Returns:
        Bytes; None where it cannot be converted.
    """
    if opset_of(model) >= target:
        return 0
    copy = without_data(model)
    before = copy.ByteSize()
    try:
        raise_opset(copy, target, fresh)
    except CannotConvert:
        return None
    return int(copy.ByteSize() - before)


_NODE, _NAMES = 400, 4
"""Upper bound of the growth of a node that is converted: bytes, and multiples of the length of its output's name. Too
high a bound costs time and no bytes.
"""


def most_conversion_bytes(model: ModelProto, target: int) -> int:
    """A fast upper bound of `conversion_bytes`.

    Args:
        model: The model.
        target: Version of the default domain.

    Returns:
        Bytes.
    """
    total, current = 0, opset_of(model)
    for scope in walk(model):
        own = max(_opset_of_scope(scope, current), 1)
        for node in scope.body.node:
            if own < target and not _may_be_the_same(node, own, target):
                total += _NODE + _NAMES * sum(map(len, node.output))
    return total


def _may_be_the_same(node: NodeProto, current: int, target: int) -> bool:
    try:
        return _is_the_same(node, current, target)
    except CannotConvert:
        return True


def _opset_of_scope(scope: Scope, of_model: int) -> int:
    """A function imports its own version of the default domain."""
    while scope.parent is not None:
        scope = scope.parent
    imports = getattr(scope.body, "opset_import", ())
    return next((o.version for o in imports if o.domain in ("", "ai.onnx")), of_model)


def _is_the_same(node: NodeProto, current: int, target: int) -> bool:
    """Whether `node` needs no conversion. Raises CannotConvert where there is none."""
    if domain_of(node) != "" or node.op_type == "Constant":
        return True
    old, new = _since(node.op_type, current), _since(node.op_type, target)
    if old == new:
        return True
    if next(subgraphs(node), None) is not None:
        if node.op_type == "Scan" and old < 9:
            raise CannotConvert("Scan of opset 8 has other inputs")
        return True
    if any(a.ref_attr_name for a in node.attribute):
        raise CannotConvert(f"{node.op_type} takes an attribute of its function")
    return False


def _replace(scope: Scope, converted: dict[int, list[NodeProto]]) -> None:
    nodes = []
    for position, node in enumerate(scope.body.node):
        for new in converted.get(position, [node]):
            copy = NodeProto()
            copy.CopyFrom(new)
            nodes.append(copy)
    scope.body.ClearField("node")
    scope.body.node.extend(nodes)


def _set_version(model: ModelProto, target: int) -> None:
    for imports in (model.opset_import, *(f.opset_import for f in model.functions)):
        for entry in imports:
            if entry.domain in ("", "ai.onnx"):
                entry.version = max(entry.version, target)
