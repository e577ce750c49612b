"""Codes of 2 to 8 bits as bit planes of 4, 2 and 1 bits packed into bytes: n-bit codes take n bits each."""

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
"""Widths of the planes for each width of codes, high bits first."""


def shifts(bits: int) -> list[tuple[int, int]]:
    """The planes of a code.

    Args:
        bits: Width of the codes, 2 to 8.

    Returns:
        (width, lowest bit) of each plane, high bits first.
    """
    low = bits
    result = []
    for width in PLANES[bits]:
        low -= width
        result.append((width, low))
    return result


def packed_bytes(elements: int, bits: int) -> int:
    """Size of packed codes.

    Args:
        elements: Number of codes.
        bits: Width of the codes, 2 to 8.

    Returns:
        Bytes; below 8 bits the number of codes is rounded up to a multiple of 8.
    """
    return elements if bits == 8 else -(-elements // 8) * bits


def pack(codes: Codes, bits: int) -> list[Codes]:
    """Pack codes into planes.

    Args:
        codes: Codes of any shape, read in C order.
        bits: Their width, 2 to 8.

    Returns:
        Planes as flat bytes, high bits first; the first element is in the low bits of a byte.
    """
    flat = codes.reshape(-1)
    if bits == 8:
        return [flat]
    flat = np.pad(flat, (0, -flat.size % 8))
    planes = []
    for width, low in shifts(bits):
        planes.append(pack_fields((flat >> np.uint8(low)) & np.uint8((1 << width) - 1), width))
    return planes


def outline_of_planes(elements: int, bits: int) -> list[Codes]:
    """Arrays with the sizes of the planes, without memory.

    Args:
        elements: Number of codes.
        bits: Their width, 2 to 7.

    Returns:
        Flat arrays of zeros, all elements of which share one byte.
    """
    return [np.broadcast_to(np.uint8(0), (packed_bytes(elements, width),)) for width, _ in shifts(bits)]


def field_bytes(elements: int, width: int) -> int:
    """Size of fields stored one after the other, the last byte padded.

    Args:
        elements: Number of fields.
        width: Bits of each.

    Returns:
        Bytes.
    """
    return -(-elements * width // 8)


def pack_fields(fields: Codes, width: int) -> Codes:
    """Pack fields into bytes, the first in the low bits.

    Args:
        fields: Flat; their number is a multiple of 8 / width.
        width: Bits of each: 4, 2 or 1.

    Returns:
        Flat bytes.
    """
    each = 8 // width
    packed = fields[0::each].copy()
    for position in range(1, each):
        packed |= fields[position::each] << np.uint8(position * width)
    return packed


def unpack(planes: list[Codes], bits: int, elements: int) -> Codes:
    """The inverse of `pack`.

    Args:
        planes: The planes, high bits first.
        bits: Width of the codes, 2 to 8.
        elements: Number of codes; padding is dropped.

    Returns:
        Flat codes.
    """
    if bits == 8:
        return planes[0][:elements]
    codes = [
        table(width, low)[plane].reshape(-1)[:elements]
        for (width, low), plane in zip(shifts(bits), planes, strict=True)
    ]
    return np.asarray(np.bitwise_or.reduce(codes, axis=0), np.uint8)


def byte_shape(width: int) -> tuple[int, ...]:
    """The shape in which the bytes of a plane are stored: [n / 8, 2, ...], as many as hold 8 fields.

    Followed by `fields_shape` it is [n / 8, 2, 2, 2] for every width, so that planes can be added.

    Args:
        width: Bits of a field: 4, 2 or 1.

    Returns:
        A shape with -1 for n / 8.
    """
    return (-1, *[2] * (width.bit_length() - 1))


def fields_shape(width: int) -> tuple[int, ...]:
    """The shape of the fields of one byte, a number of 2s.

    Args:
        width: Bits of a field: 4, 2 or 1.

    Returns:
        (2,), (2, 2) or (2, 2, 2).
    """
    return (2,) * (4 - width.bit_length())


def table(width: int, low: int) -> NDArray[np.uint8]:
    """Look-up table from bytes to fields.

    Args:
        width: Bits of a field: 4, 2 or 1.
        low: Lowest bit of the plane in the code.

    Returns:
        [256, 8 / width]: the fields of each byte, shifted to their place in the code.
    """
    places = np.arange(0, 8, width)
    fields = (np.arange(256)[:, None] >> places) & ((1 << width) - 1)
    return (fields << low).astype(np.uint8)
