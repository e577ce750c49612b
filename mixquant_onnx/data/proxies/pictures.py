"""Pictures of any size: crops of the photographs that the package ships, and rendered text for models that read it."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.float32]
"""[height, width, 3], 0..1."""

_FOLDER = files("mixquant_onnx.data") / "pictures"

_SMALL = 64
"""Largest side in pixels at which a greyscale picture, or a much wider one, is taken for characters (MNIST has 28, text
recognition 32 to 64).
"""

_CHARACTERS = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz.,-/:%$"
"""Characters that are drawn; those that look alike are left out."""


@cache
def photographs() -> tuple[Image.Image, ...]:
    """The photographs of the package, in RGB, in the order of `pictures/manifest.json`."""
    entries = json.loads((_FOLDER / "manifest.json").read_text(encoding="utf8"))
    opened = []
    for entry in entries:
        with (_FOLDER / entry["file"]).open("rb") as stream, Image.open(stream) as picture:
            opened.append(picture.convert("RGB"))
    return tuple(opened)


def reads_characters(height: int, width: int, colours: int) -> bool:
    """Whether pictures of this size are likely to show characters.

    Args:
        height: In pixels.
        width: In pixels.
        colours: Number of channels.

    Returns:
        True for small greyscale pictures, and for lines.
    """
    return height <= _SMALL and (width >= 2 * height or (colours == 1 and width <= _SMALL))


def photograph(number: int, height: int, width: int) -> Pixels:
    """A center crop of a photograph; beyond the first pass they are mirrored and cropped closer.

    Args:
        number: Any number; photographs repeat.
        height: In pixels.
        width: In pixels.

    Returns:
        [height, width, 3], 0..1.
    """
    every = photographs()
    turn, index = divmod(number, len(every))
    picture = every[index]
    if turn % 2:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    share = 1.0 if turn == 0 else 0.7
    side = min(picture.size) * share
    wide, high = (side, side * height / width) if width >= height else (side * width / height, side)
    left, top = (picture.width - wide) / 2, (picture.height - high) / 2
    box = (left, top, left + wide, top + high)
    made = picture.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return np.asarray(np.asarray(made, np.float32) / np.float32(255))


def characters(random: np.random.Generator, height: int, width: int) -> Pixels:
    """A line of characters in one colour on another; a single one where the picture is not wider than high.

    Args:
        random: Source of colours, sizes and characters.
        height: In pixels.
        width: In pixels.

    Returns:
        [height, width, 3], 0..1.
    """
    light, dark = random.uniform(0.7, 1, 3), random.uniform(0, 0.35, 3)
    ink, paper = (dark, light) if random.uniform() < 0.5 else (light, dark)
    single = width < 2 * height
    size = max(6, int(height * random.uniform(0.55, 0.85)))
    font = ImageFont.load_default(size=size)
    count = 1 if single else max(1, int(width / (0.55 * size)))
    text = "".join(random.choice(list(_CHARACTERS), count))
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    place = ((width - right - left) / 2 if single else random.uniform(0, size / 2), (height - bottom - top) / 2)
    draw.text(place, text, fill=255, font=font)
    share = np.asarray(canvas, np.float32)[:, :, None] / 255
    grain = 0.0 if single else random.uniform(0, 0.05)
    made = paper + (ink - paper) * share + grain * random.standard_normal((height, width, 1))
    if single:
        made = share if ink.mean() > paper.mean() else 1 - share
        made = np.repeat(made, 3, axis=2)
    return np.asarray(np.clip(made, 0, 1), np.float32)
