"""Every example of the documentation is run."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pages import NOT_RUN, PAGES, ROOT, RUN, Block, blocks_of, write_files

from mixquant_onnx.cli.main import main
from mixquant_onnx.config.config import config_of
from mixquant_onnx.config.file import options_of_file
from mixquant_onnx.errors import OptionError
from mixquant_onnx.export.targets import ort
from mixquant_onnx.export.targets.table import TARGETS
from mixquant_onnx.model.operators import OPERATORS
from mixquant_onnx.planning.allocators.rules import RULES
from mixquant_onnx.planning.sensitivity.table import SENSITIVITIES
from mixquant_onnx.quantization.methods import METHODS
from mixquant_onnx.report import sections

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
EXAMPLES = [block for block in BLOCKS if block.tag in RUN and not block.mark.startswith("not run")]
WITH_EXAMPLES = sorted({block.page for block in EXAMPLES})
TABLES: tuple[dict[Any, Any], ...] = (METHODS, OPERATORS, RULES, SENSITIVITIES, TARGETS)
"""What the examples of docs/extending.md add rows to."""

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.fixture(autouse=True)
def tables_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rows that an example adds are removed after it."""
    before = [dict(table) for table in TABLES]
    monkeypatch.setattr(ort, "ENCODINGS", ort.ENCODINGS)
    monkeypatch.setattr(sections, "SECTIONS", sections.SECTIONS)
    yield
    for table, rows in zip(TABLES, before, strict=True):
        table.clear()
        table.update(rows)


def run_line(line: str, capture: Capture, place: str) -> str:
    """Run a command; what it printed. It ends with 0, or with what its comment says."""
    words = shlex.split(line, comments=True)
    if not words:
        return ""
    told = re.search(r"#.*exit code (\d+)", line)
    assert words[0] == "mixquant-onnx", f"{place}: {line}"
    code = main(words[1:])
    printed = capture.readouterr()
    assert code == (int(told[1]) if told else 0), f"{place}: {line}\n{printed.out}{printed.err}"
    return printed.out


def run_sh(block: Block, capture: Capture) -> None:
    for line in block.text.replace("\\\n", " ").splitlines():
        run_line(line, capture, block.place)


def without_figures(line: str) -> list[str]:
    return re.sub(r"\d+(?:\.\d+)?", "0", line).split()


def run_console(block: Block, capture: Capture) -> None:
    """A command after "$", and lines that it prints, in their order: others may lie between, figures may differ."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, *shown = part.splitlines()
        printed = iter([without_figures(line) for line in run_line(command, capture, block.place).splitlines()])
        for line in shown:
            assert without_figures(line) in printed, f"{block.place}: {line}"


def run_python(block: Block, capture: Capture) -> None:
    exec(compile(block.text, block.place, "exec"), {"__name__": "example"})


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_in(inner)


def run_yaml(block: Block, capture: Capture) -> None:
    """Its commands are run too."""
    parsed = yaml.safe_load(block.text)
    assert isinstance(parsed, list)
    for line in texts_in(parsed):
        if line.startswith("mixquant-onnx "):
            run_line(line, capture, block.place)


def run_toml(block: Block, capture: Capture) -> None:
    path = Path("options") / "mixquant.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(block.text, encoding="utf8")
    options = options_of_file(path)
    assert options and config_of(**options)


RUNNERS = {"sh": run_sh, "console": run_console, "python": run_python, "yaml": run_yaml, "toml": run_toml}


def run_blocks(blocks: list[Block], capture: Capture) -> None:
    for block in blocks:
        RUNNERS[block.tag](block, capture)


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=str)
def test_examples_of_a_page_run_one_after_the_other(page: Path, folder: Path, capsys: Capture) -> None:
    if page.name == "builds.md":
        assert main(["model.onnx", "small.onnx", "--plan", "reviewed-plan.json", "-q"]) == 0
    run_blocks([block for block in EXAMPLES if block.page == page and block.mark != "slow"], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in EXAMPLES if block.mark == "slow"], ids=lambda b: b.place)
def test_a_slow_example_runs(block: Block, folder: Path, capsys: Capture) -> None:
    """After those before it on its page."""
    run_blocks([one for one in EXAMPLES if one.page == block.page and one.line <= block.line], capsys)


def test_no_block_is_left_out() -> None:
    """Each is run, has a tag that says what else it is, or the reason why it is not run."""
    odd = [block.place for block in BLOCKS if block.tag not in RUN + NOT_RUN]
    assert not odd, "indented, or without a known tag"
    hidden = [b.place for b in BLOCKS if b.tag == "text" and re.search(r"^(mixquant-onnx |import )", b.text, re.M)]
    assert not hidden, "examples that can run are not text"
    skipped = [block for block in BLOCKS if block.mark.startswith("not run")]
    assert len(EXAMPLES) + len(skipped) + sum(block.tag in NOT_RUN for block in BLOCKS) == len(BLOCKS)
    assert {block.page.name for block in skipped} == {"cluster.md", "passes.md", "recipes.md"}
    assert {block.tag for block in EXAMPLES} == set(RUN)


WRONG: dict[str, tuple[str, type[Exception], str]] = {
    "sh": ("mixquant-onnx missing.onnx out.onnx", AssertionError, "no such file"),
    "console": (
        "$ mixquant-onnx in.onnx out.onnx --data-free -q\nnothing of the kind\n",
        AssertionError,
        "of the kind",
    ),
    "python": ("raise ValueError('odd')", ValueError, "odd"),
    "yaml": ("- run: mixquant-onnx missing.onnx out.onnx", AssertionError, "no such file"),
    "toml": ("max-drop = 3\n", OptionError, "--max-drop"),
}


@pytest.mark.parametrize("tag", WRONG)
def test_a_block_that_is_wrong_is_noticed(tag: str, folder: Path, capsys: Capture) -> None:
    content, error, words = WRONG[tag]
    with pytest.raises(error, match=words):
        run_blocks([Block(page=Path("page.md"), line=1, tag=tag, text=content, mark="")], capsys)


def test_the_data_of_the_examples_have_what_the_pages_say(folder: Path) -> None:
    assert {name: len(values) for name, values in np.load(folder / "calib.npz").items()} == {"input": 96, "labels": 96}
    assert (folder / "models" / "digits_cnn" / "model.onnx").is_file() and ROOT in (folder / "models").resolve().parents
