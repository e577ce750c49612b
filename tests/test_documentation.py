"""Pages that are made from the code, and what they name, are as the code is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

BASES = (ROOT, ROOT / "mixquant_onnx", ROOT / "docs")


@pytest.mark.parametrize("tool", ["options", "architecture", "schema"])
def test_what_is_made_from_the_code_is_as_it_would_be_made(tool: str) -> None:
    command = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "models").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_in_the_repository(page: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf8"), flags=re.MULTILINE | re.DOTALL)
    for path in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert (page.parent / path).exists(), path


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "docs/extending.md", "docs/numerics.md"]
)
def test_files_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf8")
    named = re.findall(r"(?:`|\()((?:[a-z_]+/)*[A-Za-z_]+\.(?:py|md|json))", text)
    assert named
    for path in named:
        assert any((base / path).exists() for base in BASES) or "/" not in path, path
