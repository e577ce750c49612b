"""The pages of the documentation, built into a site, and the tables that they take from the lab notes."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT

import mixquant_onnx


def _hooks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        return importlib.import_module("docs_hooks")


hooks = _hooks()

NOTE = """# Title

| a | b |
|---|---|
| 1 | 2 |

Words.

| c |
|---|
| 3 |

## Second

```text
# no heading
```

| d |
|---|
"""


@pytest.mark.parametrize(
    ("heading", "wanted"), [("Title", ["| a | b |", "| c |"]), ("Second", ["| d |"]), ("no heading", []), ("Third", [])]
)
def test_tables_are_found_under_their_heading(heading: str, wanted: list[str]) -> None:
    assert [table.splitlines()[0] for table in hooks.tables_under(NOTE, heading)] == wanted


def test_a_page_gets_the_table_that_it_asks_for(tmp_path: Path) -> None:
    (tmp_path / "note.md").write_text(NOTE, encoding="utf8")
    page = "Before.\n\n<!-- table: note.md | Title | 2 -->\n\nAfter `<!-- table: x | y -->`.\n"
    assert hooks.with_tables(page, tmp_path) == page.replace(
        "<!-- table: note.md | Title | 2 -->", "| c |\n|---|\n| 3 |"
    )
    with pytest.raises(hooks.Missing, match="no table 3 under 'Title'"):
        hooks.with_tables(page.replace("| 2", "| 3"), tmp_path)


def test_links_of_files_at_the_root_lead_to_pages() -> None:
    text = "[a](README.md) [b](docs/faq.md#x) [c](models/README.md) [d](https://example.org) [e](CONTRIBUTING.md)"
    assert hooks.from_root(text) == "[a](index.md) [b](faq.md#x) c [d](https://example.org) [e](contributing.md)"


def test_links_to_files_of_the_root_lead_to_pages() -> None:
    text = "[a](../CONTRIBUTING.md#x) [b](../CHANGELOG.md) [c](faq.md) [d](../README.md)"
    assert hooks.to_root(text) == "[a](contributing.md#x) [b](changelog.md) [c](faq.md) [d](../README.md)"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly without a network."""
    made = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(made)]
    environment = {**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    return made


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf8")
        assert not re.findall(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*", text), page
        assert 'class="mermaid"' not in text, page


def test_pages_have_the_interface_and_the_tables(site: Path) -> None:
    python = (site / "python.html").read_text(encoding="utf8")
    missing = [name for name in mixquant_onnx.__all__ if not re.search(rf'id="[\w.]*\b{name}"', python)]
    assert missing == ["__version__"]
    results = (site / "results.html").read_text(encoding="utf8")
    wanted = (ROOT / "docs" / "results.md").read_text(encoding="utf8").count("<!-- table: ")
    assert results.count("<table>") == wanted > 5 and "<!-- table" not in results


MODELS, SPEED = ("models.md", "Real models at QEM 2"), ("speed.md", "Integer execution")
ACCURACY = ("accuracy.md", "The smallest file with at most 1 % relative loss")
COLUMNS = {
    1: (*MODELS, 1), 2: (*MODELS, 8), 3: (*MODELS, 2), 4: (*MODELS, 9), 5: (*ACCURACY, 1), 6: (*ACCURACY, 2),
    7: (*SPEED, 2), 8: (*SPEED, 11), 9: (*SPEED, 5),
}  # fmt: skip
"""Of the table in README.md: the page, the heading and the column that each of its columns is from."""


def cells(table: str) -> dict[str, list[str]]:
    """Cells of a table by the first of each row."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {row[0]: row for row in rows}


def test_figures_of_the_readme_are_those_of_the_lab_notes() -> None:
    shown = cells(hooks.tables_under((ROOT / "README.md").read_text(encoding="utf8"), "mixquant-onnx")[0])
    assert len(shown) >= 5 and all(len(row) == 1 + len(COLUMNS) for row in shown.values())
    for column, (page, heading, other) in COLUMNS.items():
        note = cells(hooks.tables_under((ROOT / "docs" / "research" / page).read_text(encoding="utf8"), heading)[0])
        for model, row in shown.items():
            assert row[column] == note[model][other], (model, column)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf8").splitlines()) <= 100
