"""Messages of errors."""

from __future__ import annotations

import pytest

from mixquant_onnx.errors import first_line


@pytest.mark.parametrize(
    ("message", "line"), [("one\ntwo", "one"), ("\n \n  one  \ntwo", "one"), ("", "ValueError"), (" \n", "ValueError")]
)
def test_the_first_line_is_the_first_that_is_not_blank_or_else_the_class(message: str, line: str) -> None:
    assert first_line(ValueError(message)) == line


def test_a_long_line_is_cut() -> None:
    assert first_line(ValueError("x" * 500)) == "x" * 300
    assert first_line(ValueError("x" * 500), 120) == "x" * 120
