"""An environment for each consumer: .venv-consumer-NAME, made again when its packages change."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from peer_tools.processes import run

from consumer_tools.catalog import Consumer

ROOT = Path(__file__).resolve().parent.parent.parent
INSTALL_SECONDS = 1800


def folder_of(consumer: Consumer) -> Path:
    return ROOT / f".venv-consumer-{consumer.name.lower().replace(' ', '-')}"


def interpreter(consumer: Consumer, folder: Path) -> tuple[Path | None, str | None]:
    """(what runs its script, why it could not be installed or None)."""
    if not consumer.installs:
        return Path(sys.executable), None
    ready, wanted = folder / ".ready", "\n".join(" ".join(packages) for packages in consumer.installs)
    program = shutil.which("node") if consumer.on_node else str(folder / "bin" / "python")
    if program is None:
        return None, "node is not installed"
    if ready.is_file() and ready.read_text(encoding="utf8") == wanted:
        return Path(program), None
    print(f"installing {consumer.name}", file=sys.stderr, flush=True)
    failure = _node_packages(consumer, folder) if consumer.on_node else _python_packages(consumer, folder)
    if failure is not None:
        return None, failure
    ready.write_text(wanted, encoding="utf8")
    return Path(program), None


def _node_packages(consumer: Consumer, folder: Path) -> str | None:
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed"
    folder.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder]
    return next((why for p in consumer.installs if (why := run([*command, *p], INSTALL_SECONDS).failure)), None)


def _python_packages(consumer: Consumer, folder: Path) -> str | None:
    made = run([sys.executable, "-m", "venv", "--clear", folder], INSTALL_SECONDS)
    if made.failure is not None:
        return made.failure
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return next((why for p in consumer.installs if (why := run([*pip, *p], INSTALL_SECONDS).failure)), None)
