"""Pictures for the documentation: a run in a terminal of 80 columns, and its report in a browser."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
MODEL = ROOT / "models" / "digits_cnn"
COLUMNS = 80

RUN = ["mixquant-onnx", "in.onnx", "out.onnx", "--avg-bits", "4", "--data", "calib.npz"]
SWEEP = ["mixquant-onnx", "sweep", "in.onnx", "--avg-bits", "2.5..6", "--data", "eval.npz"]


def run(command: Sequence[str], folder: Path) -> str:
    """What a command prints in a terminal, without the folder that it ran in."""
    words = [sys.executable, "-m", "mixquant_onnx", *command[1:]]
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.replace(f"{folder}/", "")


def terminal(command: Sequence[str], folder: Path, picture: Path) -> None:
    """A command and what it prints, as SVG without a font from elsewhere."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(f"[bold]$[/bold] {' '.join(command)}", highlight=False)
    console.print(Text.from_ansi(run(command, folder)))
    plain = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    picture.write_text(console.export_svg(title="", code_format=plain), encoding="utf8")


def screenshot(page: Path, picture: Path, height: int) -> None:
    """A page as a browser draws it."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print(f"no browser: {picture.name} stays as it was", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
             f"--user-data-dir={profile}", "--virtual-time-budget=8000", f"--window-size=1000,{height}",
             f"--screenshot={picture}", page.as_uri()], capture_output=True, check=True,
        )  # fmt: skip


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source, copy in (("model.onnx", "in.onnx"), ("calib.npz", "calib.npz"), ("eval.npz", "eval.npz")):
            shutil.copy(MODEL / source, folder / copy)
        terminal(RUN, folder, IMAGES / "terminal.svg")
        run([*RUN, "--benchmark", "--report", "report.html"], folder)
        screenshot(folder / "report.html", IMAGES / "report.png", 1900)
        run([*SWEEP, "--plot", str(IMAGES / "sweep.svg")], folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
