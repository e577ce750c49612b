"""Zero points in the width of the codes, as a bit stream: 8 zero points take as many bytes as they have bits.

Not in planes, unlike codes: here a matrix product and a remainder unpack every width without a table, in the fewest
nodes. Names and nodes take bytes and time at load for each weight that is packed, so only weights with many zero points
are; the others store one byte for each.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, FunctionProto, TensorProto, helper

from mixquant_onnx.export.encodings.bit_planes import packed_bytes
from mixquant_onnx.export.encodings.decoder_functions import DOMAIN, Body, reference, without_padding
from mixquant_onnx.numerics.arrays import Codes

PAYS_FROM = 512
"""Bytes that packing must save for a weight. Its node takes 100 to 250, and 0.3 ms at load; the function that all
weights of a width share takes 500 to 900, part of which a model with a single weight just above this bound loses.
"""


def packs(count: int, bits: int) -> bool:
    """Whether zero points are packed. No other function decides this.

    Args:
        count: Number of zero points.
        bits: Width of the codes.

    Returns:
        True where packing saves PAYS_FROM bytes or more.
    """
    return count - packed_bytes(count, bits) >= PAYS_FROM


def stored_bytes(count: int, bits: int) -> int:
    """Bytes of zero points in the file.

    Args:
        count: Number of zero points.
        bits: Width of the codes.

    Returns:
        Bytes, packed or not.
    """
    return packed_bytes(count, bits) if packs(count, bits) else count


def pack_stream(zeros: Codes, bits: int) -> Codes:
    """Pack zero points into a bit stream.

    Args:
        zeros: Zero points of any shape, read in C order.
        bits: Width of the codes.

    Returns:
        [n / 8, bits]: bytes of 8 zero points each, low bits first; the last group is padded with zeros.
    """
    flat = np.pad(zeros.reshape(-1), (0, -zeros.size % 8))
    single = (flat[:, None] >> np.arange(bits, dtype=np.uint8)) & np.uint8(1)
    return np.packbits(single.reshape(-1, 8 * bits), axis=1, bitorder="little")


def shares(bits: int) -> NDArray[np.float32]:
    """The matrix that unpacks zero points.

    A power of two for each of the one or two bytes that a zero point is in, so that everything is exact in float32.

    Args:
        bits: Width of the codes.

    Returns:
        [bits, 8]: bytes x this = zero points, plus a multiple of 2^bits, plus a fraction.
    """
    byte, place = np.arange(bits)[:, None] * 8, np.arange(8) * bits
    within = (byte < place + bits) & (byte + 8 > place)
    return np.where(within, 2.0 ** (byte - place), 0.0).astype(np.float32)


def has_tail(count: int) -> bool:
    """Whether the last group of 8 zero points is padded."""
    return count % 8 != 0


def inputs(opset: int) -> list[str]:
    """Inputs of the function: the bytes, and below opset 12 a tensor with the shape of the zero points."""
    return ["packed"] if opset >= 12 else ["packed", "like"]


def attributes(count: int, shape: tuple[int, ...], opset: int) -> dict[str, list[int]]:
    """Attributes of a call: what the function needs to know of the zero points beside its inputs.

    Args:
        count: Number of zero points.
        shape: Their shape.
        opset: Opset of the model.

    Returns:
        Values by name.
    """
    known = {"shape": list(shape)} if opset >= 12 else {}
    return known | ({"count": [count]} if has_tail(count) and opset < 10 else {})


def build(count: int, bits: int, opset: int) -> FunctionProto:
    """A function that inverts `pack_stream`.

    Args:
        count: Number of zero points; only whether they are padded matters.
        bits: Width of the codes.
        opset: Opset of the model.

    Returns:
        A function with uint8 output. Weights of a width share it if all or none are padded.
    """
    return _build(has_tail(count), bits, opset)


@cache
def _build(tail: bool, bits: int, opset: int) -> FunctionProto:
    body = Body()
    above = body.constant(np.array(1 << bits, np.float32))
    values = body.add("MatMul", body.add("Cast", "packed", to=TensorProto.FLOAT), body.constant(shares(bits)))
    if opset >= 10:
        values = body.add("Mod", values, above, fmod=1)
    else:
        multiple = body.add("Mul", body.add("Floor", body.add("Div", values, above)), above)
        values = body.add("Sub", values, multiple)
    shape = _shape(body, opset)
    if tail and opset >= 10:
        flat = body.add("Reshape", values, body.constant(np.array([-1], np.int64)))
        values = without_padding(body, opset, flat, body.add("ReduceProd", shape))
    elif tail:
        values = without_padding(body, opset, body.add("Flatten", values, axis=0))
    body.add("Cast", body.add("Reshape", values, shape), to=TensorProto.UINT8, output="zero_point")
    return helper.make_function(
        DOMAIN,
        f"ZeroPoint{bits}" + ("Tail" if tail else ""),
        inputs(opset),
        ["zero_point"],
        body.nodes,
        [helper.make_opsetid("", opset)],
        list(attributes(1 if tail else 8, (), opset)),
    )


def _shape(body: Body, opset: int) -> str:
    if opset < 12:
        return body.add("Shape", "like")
    shape = body.add("Constant")
    body.nodes[-1].attribute.append(reference("shape", "value_ints", AttributeProto.INTS))
    return shape
