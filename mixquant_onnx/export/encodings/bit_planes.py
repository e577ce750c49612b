"""Codes of 2..8 bits as bit planes of 4, 2 and 1 bits packed into bytes: `n` bits take `n` bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.arrays import Codes

PLANES: dict[int, tuple[int, ...]] = {
    8: (8,),
    7: (4, 2, 1),
    6: (4, 2),
    5: (4, 1),
    4: (4,),
    3: (2, 1),
    2: (2,),
}


def shifts(bits: int) -> list[tuple[int, int]]:
    """(width, lowest bit) of each plane of a code, high bits first."""
    low = bits
    result = []
    for width in PLANES[bits]:
        low -= width
        result.append((width, low))
    return result


def packed_bytes(elements: int, bits: int) -> int:
    """Bytes that `pack` returns: bits / 8 each, the count rounded up to a multiple of 8 below 8 bits."""
    return elements if bits == 8 else -(-elements // 8) * bits


def pack(codes: Codes, bits: int) -> list[Codes]:
    """The planes of flat `codes`, high bits first; the first element is in the low bits of a byte."""
    flat = codes.reshape(-1)
    if bits == 8:
        return [flat]
    flat = np.pad(flat, (0, -flat.size % 8))
    planes = []
    for width, low in shifts(bits):
        planes.append(pack_fields((flat >> np.uint8(low)) & np.uint8((1 << width) - 1), width))
    return planes


def outline_of_planes(elements: int, bits: int) -> list[Codes]:
    """Arrays as large as the planes of `elements` codes below 8 bits, which take no memory."""
    return [np.broadcast_to(np.uint8(0), (packed_bytes(elements, width),)) for width, _ in shifts(bits)]


def field_bytes(elements: int, width: int) -> int:
    """Bytes of `elements` fields of `width` bits one after the other, the last byte padded."""
    return -(-elements * width // 8)


def pack_fields(fields: Codes, width: int) -> Codes:
    """Flat fields of `width` bits (4, 2 or 1), a whole number of bytes of them, low bits first."""
    places = np.arange(0, 8, width, dtype=np.uint8)
    return np.asarray(np.bitwise_or.reduce(fields.reshape(-1, 8 // width) << places, axis=1), np.uint8)


def unpack(planes: list[Codes], bits: int, elements: int) -> Codes:
    """The inverse of `pack`, with the padding dropped."""
    if bits == 8:
        return planes[0][:elements]
    codes = [
        table(width, low)[plane].reshape(-1)[:elements]
        for (width, low), plane in zip(shifts(bits), planes, strict=True)
    ]
    return np.asarray(np.bitwise_or.reduce(codes, axis=0), np.uint8)


def byte_shape(width: int) -> tuple[int, ...]:
    """The shape that the bytes of a plane are stored in: [eights of codes, 2, ...], as many as hold 8 fields.

    With `fields_shape` after it that is [eights, 2, 2, 2] for every width, so that planes add up as they are.
    """
    return (-1, *[2] * (width.bit_length() - 1))


def fields_shape(width: int) -> tuple[int, ...]:
    """The fields of a byte, as 2 by 2 by 2 as they are many."""
    return (2,) * (4 - width.bit_length())


def table(width: int, low: int) -> NDArray[np.uint8]:
    """[256, 8 / width]: the fields of each byte, shifted to their place in the code."""
    places = np.arange(0, 8, width)
    fields = (np.arange(256)[:, None] >> places) & ((1 << width) - 1)
    return (fields << low).astype(np.uint8)
