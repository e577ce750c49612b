"""What checks a commit has the versions of what checks the project."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

HOOKS = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf8")
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf8")


def _hook(name: str) -> str:
    return next(part for part in re.split(r"^ +- id: ", HOOKS, flags=re.MULTILINE) if part.startswith(f"{name}\n"))


@pytest.mark.parametrize(("hook", "tool"), [("ruff-format", "ruff"), ("ruff-check", "ruff")])
def test_a_hook_has_the_version_that_the_tests_have(hook: str, tool: str) -> None:
    (pinned,) = set(re.findall(rf'"{tool}==([\d.]+)"', PROJECT))
    assert re.findall(rf"\b{tool}==([\d.]+)", _hook(hook)) == [pinned]


@pytest.mark.parametrize(("hook", "tool"), [("mypy", "mypy"), ("lint-imports", "import-linter")])
def test_a_hook_of_the_environment_is_pinned_there(hook: str, tool: str) -> None:
    assert f"entry: .venv/bin/{hook}" in _hook(hook) and "language: system" in _hook(hook)
    assert re.search(rf'"{tool}==[\d.]+[";]', PROJECT)


def test_every_other_hook_is_local_and_pinned() -> None:
    hooks = re.split(r"^ +- id: ", HOOKS, flags=re.MULTILINE)[1:]
    assert re.findall(r"^ +- repo: (\S+)", HOOKS, flags=re.MULTILINE) == ["local"]
    for hook in hooks:
        assert "language: system" in hook or re.search(r"additional_dependencies: \[[a-z-]+==[\d.]+\]", hook), hook
