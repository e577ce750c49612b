"""An environment for each quantizer: .venv-peer-NAME, made again when its packages change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from peer_tools.catalog import Peer
from peer_tools.processes import run

ROOT = Path(__file__).resolve().parent.parent.parent
INSTALL_SECONDS = 1800


def python_of(peer: Peer) -> tuple[Path, str | None]:
    """(its interpreter, why it could not be installed or None)."""
    folder = ROOT / f".venv-peer-{peer.name}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    wanted = "\n".join(peer.packages)
    if ready.is_file() and ready.read_text(encoding="utf8") == wanted:
        return python, None
    print(f"installing {peer.name}", file=sys.stderr, flush=True)
    base = [sys.executable, "-m", "venv", "--clear", str(folder)]
    if subprocess.run(base, check=False, capture_output=True).returncode != 0:
        return python, "no environment could be made"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = run([*pip, *peer.packages], INSTALL_SECONDS)
    if done.failure is None:
        ready.write_text(wanted, encoding="utf8")
    return python, done.failure
