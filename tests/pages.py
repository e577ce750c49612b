"""The fenced blocks of the pages of the documentation, and the files that their examples name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from cases import Array, run, text, weight
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parent.parent
PAGES = [Path("README.md"), Path("CONTRIBUTING.md"), *sorted(p.relative_to(ROOT) for p in ROOT.glob("docs/*.md"))]
"""Relative to the root of the repository; lab notes are not among them."""

RUN = ("sh", "console", "python", "yaml", "toml")
NOT_RUN = ("text", "make", "cmake", "js")
"""Tags of blocks: those that are run (or parsed), and those that are not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A block of code.

    Attributes:
        page: The page.
        line: Where it starts.
        tag: What stands behind the fence; "indented" where there is none.
        text: Its content.
        mark: "slow", a reason not to run it, or "".
    """

    page: Path
    line: int
    tag: str
    text: str
    mark: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    tokens = MarkdownIt().parse((ROOT / page).read_text(encoding="utf8"))
    return list(_blocks(page, tokens))


def _blocks(page: Path, tokens: list[Token]) -> Iterator[Block]:
    mark = ""
    for token in tokens:
        if token.type in ("fence", "code_block"):
            tag = token.info.strip() if token.type == "fence" else "indented"
            line = token.map[0] + 1 if token.map else 0
            yield Block(page=page, line=line, tag=tag, text=token.content, mark=mark)
        found = re.fullmatch(r"<!-- (slow|not run: .+) -->\s*", token.content) if token.type == "html_block" else None
        mark = found[1] if found else ""


def classifier() -> onnx.ModelProto:
    """Three layers with the names that the examples use; large enough that quantizing pays."""
    return text(
        """g (float[N,64] input, float[64,256] encoder.0.weight, float[256,128] encoder.1.weight,
            float[128,10] head.weight) => (float[N,10] logits)
        { a = MatMul (input, encoder.0.weight) b = Relu (a) c = MatMul (b, encoder.1.weight) d = Relu (c)
          logits = MatMul (d, head.weight) }""".replace(".", "_"),
        encoder_0_weight=weight(64, 256), encoder_1_weight=weight(256, 128, seed=1),
        head_weight=weight(128, 10, seed=2),
    )  # fmt: skip


def rows(model: onnx.ModelProto, count: int, seed: int) -> dict[str, Array]:
    """Rows with the classes that the model gives them."""
    values = np.random.default_rng(seed).standard_normal((count, 64)).astype(np.float32)
    return {"input": values, "labels": np.argmax(run(model, {"input": values})[0], 1)}


EVALUATE = """
import sys

import numpy as np
import onnxruntime

data = np.load("rows.npz")
found = onnxruntime.InferenceSession(sys.argv[1]).run(None, {"input": data["input"]})[0]
print((found.argmax(1) == data["labels"]).mean())
"""


def write_files(folder: Path) -> None:
    """The files that examples name: models, rows, labels, a script; and the folder models/."""
    model = classifier()
    for name in ("in", "model"):
        onnx.save(model, folder / f"{name}.onnx")
    calibration, judging = rows(model, 96, 0), rows(model, 48, 1)
    np.savez(folder / "calib.npz", allow_pickle=False, **calibration)
    np.savez(folder / "rows.npz", allow_pickle=False, **judging)
    np.save(folder / "y.npy", calibration["labels"])
    np.save(folder / "labels.npy", judging["labels"])
    (folder / "evaluate.py").write_text(EVALUATE, encoding="utf8")
    (folder / "models").symlink_to(ROOT / "models")
