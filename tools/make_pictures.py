"""Cut the photographs that stand in for a user's data out of two packages: run it through the script beside it."""

from __future__ import annotations

import bz2
import json
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

SIDE = 160
QUALITY = 75
SMALLEST = 0.45
"""A cut's side as a share of the photograph's shorter one, at least."""


@dataclass(frozen=True)
class Source:
    """A photograph, how many cuts are made of it, and what its package says of its licence."""

    package: str
    file: str
    cuts: int
    title: str
    licence: str


SCIKIT_IMAGE, SCIPY = "scikit-image 0.26.0", "scipy 1.9.3"
SOURCES = (
    Source(SCIKIT_IMAGE, "astronaut.png", 7, "Eileen Collins, NASA", "public domain"),
    Source(SCIKIT_IMAGE, "chelsea.png", 6, "Chelsea the cat, Stefan van der Walt", "CC0"),
    Source(SCIKIT_IMAGE, "coffee.png", 6, "coffee cup, Rachel Michetti", "CC0"),
    Source(SCIKIT_IMAGE, "rocket.jpg", 5, "Falcon 9 with DSCOVR, SpaceX", "public domain"),
    Source(SCIPY, "scipy/misc/face.dat", 6, "raccoon, public-domain-image.com", "public domain"),
    Source(SCIKIT_IMAGE, "hubble_deep_field.jpg", 1, "Hubble eXtreme Deep Field, NASA", "public domain"),
    Source(SCIKIT_IMAGE, "camera.png", 2, "cameraman, Lav Varshney", "CC0"),
    Source(SCIKIT_IMAGE, "brick.png", 1, "bricks, CC0Textures", "CC0"),
    Source(SCIKIT_IMAGE, "grass.png", 1, "grass", "CC0"),
    Source(SCIKIT_IMAGE, "gravel.png", 1, "gravel, CC0Textures", "CC0"),
)


def opened(source: Source, folder: Path) -> Image.Image:
    if source.package == SCIPY:
        with zipfile.ZipFile(next(folder.glob("scipy-*.whl"))) as wheel:
            raw = np.frombuffer(bz2.decompress(wheel.read(source.file)), np.uint8)
        return Image.fromarray(raw.reshape(768, 1024, 3))
    return Image.open(Path(skimage.__file__).parent / "data" / source.file).convert("RGB")


def main(folder: Path, target: Path) -> None:
    random = np.random.default_rng(0)
    target.mkdir(parents=True, exist_ok=True)
    entries = []
    for source in SOURCES:
        picture = opened(source, folder)
        width, height = picture.size
        for _ in range(source.cuts):
            side = int(min(width, height) * random.uniform(SMALLEST, 1))
            left, top = (int(random.integers(0, n - side + 1)) for n in (width, height))
            cut = picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            name = f"{len(entries):02d}.jpg"
            cut.save(target / name, quality=QUALITY)
            entries.append(
                {
                    "file": name,
                    "package": source.package,
                    "source": source.file,
                    "box": [left, top, side, side],
                    "title": source.title,
                    "licence": source.licence,
                }
            )
    (target / "manifest.json").write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
