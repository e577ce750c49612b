"""What mkdocs does beyond its plugins: pages that live at the root of the repository, and tables from the lab notes.

`<!-- table: research/accuracy.md | HEADING | 2 -->` in a page is replaced by the second table under that heading of the
lab note, so that no figure is typed twice. The path is relative to docs/.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FROM_ROOT = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "ARCHITECTURE.md": "architecture.md"}
"""Files of the root by the page that shows them."""

_PAGES = {**FROM_ROOT, "README.md": "index.md"}
_TABLE = re.compile(r"^<!-- table: (?P<file>\S+) \| (?P<heading>[^|]+?)(?: \| (?P<number>\d+))? -->$", re.MULTILINE)
_LINK = re.compile(r"\[(?P<words>[^\]]*)\]\((?!https?:|#)(?P<path>[^)#]*)(?P<anchor>#[^)]*)?\)")


class Missing(Exception):
    """A table that a page asks for and the lab note does not have."""


def _headings(lines: list[str]) -> list[int]:
    """Positions of the headings: lines that start with #, but for those in blocks of code."""
    fences = 0
    found = []
    for position, line in enumerate(lines):
        fences += line.startswith("```")
        if fences % 2 == 0 and re.match("#+ ", line):
            found.append(position)
    return found


def tables_under(text: str, heading: str) -> list[str]:
    """The tables of a page under a heading, up to the next heading of any level."""
    lines = text.splitlines()
    starts = _headings(lines)
    wanted = [k for k in starts if lines[k].lstrip("#").strip() == heading]
    if not wanted:
        return []
    end = next((k for k in starts if k > wanted[0]), len(lines))
    found: list[list[str]] = []
    for before, line in zip(lines[wanted[0] : end], lines[wanted[0] + 1 : end], strict=False):
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            found[-1].append(line)
    return ["\n".join(rows) for rows in found]


def with_tables(page: str, docs: Path = DOCS) -> str:
    """A page with the tables that it asks for. Raises Missing."""

    def table(found: re.Match[str]) -> str:
        heading, number = found["heading"], int(found["number"] or 1)
        tables = tables_under((docs / found["file"]).read_text(encoding="utf8"), heading)
        if len(tables) < number:
            raise Missing(f"{found['file']} has no table {number} under '{heading}'")
        return tables[number - 1]

    return _TABLE.sub(table, page)


def from_root(text: str) -> str:
    """A file of the root as a page: its links lead to pages, and files that are no pages are named without a link."""

    def link(found: re.Match[str]) -> str:
        words, path, anchor = found["words"], found["path"], found["anchor"] or ""
        if path not in _PAGES and not path.startswith("docs/"):
            return words
        return f"[{words}]({_PAGES.get(path, path.removeprefix('docs/'))}{anchor})"

    return _LINK.sub(link, text)


def to_root(text: str) -> str:
    """A page of docs/ in which links to files of the root lead to the pages that show them."""

    def link(found: re.Match[str]) -> str:
        page = FROM_ROOT.get(found["path"].removeprefix("../"))
        return found[0] if page is None else f"[{found['words']}]({page}{found['anchor'] or ''})"

    return _LINK.sub(link, text)


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for name, page in FROM_ROOT.items():
        made = from_root((ROOT / name).read_text(encoding="utf8"))
        files.append(File.generated(config, page, content=made))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return to_root(with_tables(markdown))
