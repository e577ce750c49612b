"""Valid files made invalid, or valid in ways that nobody meant. Each takes bytes and a source of chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

Mutation = Callable[[bytes, Random], bytes]

NUMBERS = (0, 1, -1, 2, 7, 255, 5000, (1 << 31) - 1, -(1 << 31))
LARGE = (1 << 31, 1 << 32, 1 << 40, (1 << 62) + 1, (1 << 63) - 1, -(1 << 63))
TEXTS = ("", " ", "x", "MatMul", "Loop", "ai.onnx", "com.microsoft", "mixquant", "ü" * 40, "../../x", "a\nb", "\x00")


def bits(data: bytes, random: Random) -> bytes:
    """Some bits flipped."""
    made = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        made[random.randrange(len(made))] ^= 1 << random.randrange(8)
    return bytes(made)


def head_bits(data: bytes, random: Random) -> bytes:
    """Some bits flipped where structure is denser than weights are: in what is no raw data."""
    made, model = bytearray(data), onnx.load_from_string(data)
    weights = [t.raw_data for t in model.graph.initializer if len(t.raw_data) > 16]
    taken = [(at, at + len(raw)) for raw in weights if (at := data.find(raw)) >= 0]
    places = [k for k in range(len(data)) if not any(a <= k < b for a, b in taken)]
    for _ in range(random.choice((1, 1, 2, 4))):
        made[random.choice(places)] ^= 1 << random.randrange(8)
    return bytes(made)


def truncated(data: bytes, random: Random) -> bytes:
    """The end missing."""
    return data[: random.randrange(len(data))]


def spliced(data: bytes, random: Random) -> bytes:
    """A piece taken out, doubled or moved."""
    a, b, c = sorted(random.randrange(len(data)) for _ in range(3))
    return random.choice((data[:a] + data[b:], data[:b] + data[a:], data[:a] + data[b:c] + data[a:b] + data[c:]))


def fields(data: bytes, random: Random) -> bytes:
    """One to three fields of protobuf changed, dropped or doubled."""
    model = onnx.load_from_string(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        message, field = random.choice(list(_set_fields(model)))
        _change(message, field, random, model)
    return bytes(model.SerializeToString())


def _set_fields(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    for field, value in message.ListFields():
        yield message, field
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for one in value if field.is_repeated else [value]:
                yield from _set_fields(one)


def _change(message: Any, field: FieldDescriptor, random: Random, model: ModelProto) -> None:
    value = getattr(message, field.name)
    if random.random() < 0.25:
        message.ClearField(field.name)
    elif field.is_repeated:
        place = random.randrange(len(value))
        way = random.choice(("drop", "double", "reverse", "change"))
        if way == "drop":
            del value[place]
        elif way == "double":
            value.extend([value[place]])
        elif way == "reverse":
            kept = list(value)[::-1]
            copies = [_copy(one) for one in kept]
            message.ClearField(field.name)
            getattr(message, field.name).extend(copies)
        elif field.type != FieldDescriptor.TYPE_MESSAGE:
            value[place] = _other(value[place], field, random, model)
    elif field.type != FieldDescriptor.TYPE_MESSAGE:
        setattr(message, field.name, _other(value, field, random, model))


def _copy(value: Any) -> Any:
    if not isinstance(value, Message):
        return value
    made: Any = type(value)()
    made.CopyFrom(value)
    return made


def _other(value: Any, field: FieldDescriptor, random: Random, model: ModelProto) -> Any:
    """Another value of the same type of protobuf."""
    if isinstance(value, bytes):
        return random.choice((b"", value[:-1], value + b"\x00", value[::-1], b"\xff" * len(value)))
    if isinstance(value, str):
        names = [name for node in model.graph.node for name in (*node.input, *node.output, node.op_type)]
        return random.choice((*TEXTS, *names))
    if isinstance(value, float):
        return random.choice((0.0, -1.0, float("nan"), float("inf"), 1e30))
    wide = field.type in (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64)
    number = random.choice((*NUMBERS, *(LARGE if wide else ()), int(value) + 1, int(value) - 1))
    if field.type == FieldDescriptor.TYPE_UINT64:
        return abs(number)
    if field.enum_type is not None:
        return random.choice([one.number for one in field.enum_type.values])
    return number


def recursion(data: bytes, random: Random) -> bytes:
    """A function that calls itself, alone or by another one; or a graph that is a circle."""
    model = onnx.load_from_string(data)
    node = random.choice(list(model.graph.node))
    if random.random() < 0.25:
        node.input[0 if node.input else slice(0, 0)] = node.output[0]
        return bytes(model.SerializeToString())
    names = ["F0", "F1"][: random.choice((1, 2))]
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for k, name in enumerate(names):
        calls = names[(k + 1) % len(names)]
        inner = [helper.make_node(calls, ["a"], ["b"], domain="own"), helper.make_node("Relu", ["b"], ["c"])]
        model.functions.append(helper.make_function("own", name, ["a"], ["c"], inner, opset))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("F0", [node.output[0]], ["recursion"], domain="own"))
    if random.random() < 0.5:
        model.graph.output.append(helper.make_tensor_value_info("recursion", TensorProto.FLOAT, None))
    return bytes(model.SerializeToString())


def nested(data: bytes, random: Random) -> bytes:
    """If in If in If, deeper than protobuf reads at the deepest; or a chain of calls of functions."""
    model, value = onnx.load_from_string(data), "deep"
    source = model.graph.node[-1].output[0]
    model.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
    if random.random() < 0.4:
        _calls(model, random.choice((2, 20, 200, 2000)))
        model.graph.node.append(helper.make_node("F0", [source], [value], domain="own"))
        return bytes(model.SerializeToString())
    model.graph.initializer.append(helper.make_tensor("always", TensorProto.BOOL, [], [True]))
    node = helper.make_node("Identity", [source], ["deep0"]).SerializeToString()
    depth = random.choice((2, 10, 20, 30, 33, 100, 5000))
    for k in range(depth):
        output = value if k == depth - 1 else f"deep{k + 1}"
        node = _if(node, f"deep{k}", output, source)
    return bytes(model.SerializeToString()) + _field(7, _field(1, node))


def _calls(model: ModelProto, depth: int) -> None:
    """F0 calls F1 and so on."""
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for k in range(depth):
        last = k == depth - 1
        node = helper.make_node("Relu" if last else f"F{k + 1}", ["a"], ["b"], domain="" if last else "own")
        model.functions.append(helper.make_function("own", f"F{k}", ["a"], ["b"], [node], opset))
    model.opset_import.append(helper.make_opsetid("own", 1))


def _if(node: bytes, inner: str, output: str, source: str) -> bytes:
    """A node If as bytes, with `node` in one branch: Python's protobuf does not build what it would not read."""
    info = helper.make_tensor_value_info(inner, TensorProto.FLOAT, None).SerializeToString()
    then = _field(1, node) + _field(2, b"g") + _field(12, info)
    other = helper.make_node("Identity", [source], [f"else {output}"])
    stub = helper.make_graph(
        [other], "e", [], [helper.make_tensor_value_info(other.output[0], TensorProto.FLOAT, None)]
    )
    branch = helper.make_attribute("else_branch", stub).SerializeToString()
    deep = _field(1, b"then_branch") + _field(6, then) + b"\xa0\x01\x05"
    head = helper.make_node("If", ["always"], [output]).SerializeToString()
    return bytes(head + _field(5, branch) + _field(5, deep))


def _field(number: int, content: bytes) -> bytes:
    """A field of protobuf that has a length."""
    size, made = len(content), bytearray([number << 3 | 2])
    while size >= 128:
        made.append(size & 127 | 128)
        size >>= 7
    return bytes(made) + bytes([size]) + content


def huge(data: bytes, random: Random) -> bytes:
    """Sizes that do not fit what is stored, or no memory."""
    model, size = onnx.load_from_string(data), random.choice((*LARGE, 20_000, -1, 0))
    tensors = [t for t in model.graph.initializer if t.dims] or list(model.graph.initializer)
    values = [v for v in (*model.graph.input, *model.graph.output) if v.type.tensor_type.shape.dim]
    if values and random.random() < 0.4:
        random.choice(list(random.choice(values).type.tensor_type.shape.dim)).dim_value = size
    elif tensors:
        tensor = random.choice(tensors)
        if random.random() < 0.5 and tensor.dims:
            tensor.dims[random.randrange(len(tensor.dims))] = size
        else:
            tensor.dims[:] = random.choice(
                ([1 << 32, 1 << 32], [size], [1] * 70, [1 << 21, 1 << 21, 1 << 22], [-4, -4], [])
            )
        if random.random() < 0.3:
            tensor.ClearField("raw_data")
    return bytes(model.SerializeToString())


def types(data: bytes, random: Random) -> bytes:
    """Tensors, inputs and attributes that claim another type."""
    model = onnx.load_from_string(data)
    kind, way = random.choice([*range(26), 99, -1]), random.random()
    attributes = [a for node in model.graph.node for a in node.attribute]
    if way < 0.5 and model.graph.initializer:
        tensor = random.choice(list(model.graph.initializer))
        tensor.data_type = kind
        if random.random() < 0.3:
            tensor.ClearField("raw_data")
            tensor.float_data.extend([0.5] * random.choice((1, 64)))
    elif way < 0.7 and model.graph.input:
        random.choice(list(model.graph.input)).type.tensor_type.elem_type = kind
    elif attributes:
        _retype(random.choice(attributes), random)
    else:
        _retype(random.choice(list(model.graph.node)).attribute.add(name="transB"), random)
    return bytes(model.SerializeToString())


def _retype(attribute: AttributeProto, random: Random) -> None:
    attribute.type = random.choice(list(AttributeProto.AttributeType.values()))
    if random.random() < 0.4:
        attribute.ref_attr_name = random.choice(("", "x"))
    if random.random() < 0.4:
        attribute.g.node.append(NodeProto(op_type="Relu", input=["x"], output=["q"]))


MUTATIONS: Mapping[str, Mutation] = {
    one.__name__: one for one in (bits, head_bits, truncated, spliced, fields, recursion, nested, huge, types)
}
SHARES = {"fields": 4, "head_bits": 3, "types": 2, "huge": 2}
"""How often each comes, for one of those that are not named."""
