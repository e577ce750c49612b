"""Numbers and names as JSON and as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from mixquant_onnx.errors import counted

SHOWN = 12
"""Most rows of a table in a terminal; -v and --json have all of them."""


class WholeConsole(Console):
    """A console on which tables have all their rows (-v)."""


def most_rows(console: Console, usual: int = SHOWN) -> int | None:
    """Most rows of a table.

    Args:
        console: Where it is printed.
        usual: That number where not all of them are wanted.

    Returns:
        Their number; None for all, as the end of a slice.
    """
    return None if isinstance(console, WholeConsole) else usual


def finite(value: float | None) -> float | str | None:
    """A number for JSON, which has no infinities.

    Args:
        value: Any number, or None.

    Returns:
        The number; "inf" and "-inf" for infinities, None for NaN.
    """
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def decibels(value: float | str | None) -> str:
    """An SQNR as text.

    Args:
        value: In dB, as `finite` gives it.

    Returns:
        "exact" for "inf" (no error), "no signal" for "-inf", "-" for None.
    """
    if value is None:
        return "-"
    if isinstance(value, str):
        return "exact" if value == "inf" else "no signal"
    return f"{value:.1f} dB"


def size(nbytes: int) -> str:
    """A number of bytes as text: in MB from 0.1 MB on, else in kB."""
    return f"{nbytes / 1e6:.2f} MB" if nbytes >= 100_000 else f"{nbytes / 1e3:.1f} kB"


def sizes(before: int, after: int) -> tuple[str, str]:
    """Two sizes to be compared, in one unit where both have two digits in it.

    Args:
        before: The one in bytes.
        after: The other one.

    Returns:
        Both as text.
    """
    less, more = sorted((before, after))
    if less >= 100_000 or more < 100_000 or (less < 10_000 and more >= _FOR_KB):
        return size(before), size(after)
    if more < _FOR_KB:
        return f"{before / 1e3:.1f} kB", f"{after / 1e3:.1f} kB"
    return f"{before / 1e6:.2f} MB", f"{after / 1e6:.2f} MB"


_FOR_KB = 1_000_000
"""Bytes up to which a size is told in kB beside one that is smaller than 0.1 MB."""


def short(name: str, width: int = 36) -> str:
    """The end of a name that is longer than `width` characters: weights differ at the end of their names.

    Args:
        name: The name.
        width: Most characters.

    Returns:
        The name, or an ellipsis and its end.
    """
    return name if len(name) <= width else "…" + name[1 - width :]


def shortened(names: Sequence[str], width: int) -> list[str]:
    """Names cut in the middle to at most `width` characters, where they still differ if that is possible.

    Args:
        names: The names.
        width: Most characters.

    Returns:
        The names in order.
    """
    best: list[str] = []
    for head in sorted(range(max(width - 1, 1)), key=lambda h: abs(h - width // 3)):
        tail = width - 1 - head
        cut = [name if len(name) <= width else f"{name[:head]}…{name[len(name) - tail :]}" for name in names]
        if len(set(cut)) == len(set(names)):
            return cut
        best = best or cut
    return best


def rows_text(count: int, name: str) -> str:
    """Samples as text.

    Args:
        count: How many there are.
        name: What they are, such as "rows of your data"; with a number of its own, that is kept.

    Returns:
        Such as "1 row of your data".
    """
    if name[:1].isdigit():
        return name
    named = name or "rows"
    return f"{count} {named.replace('rows', 'row', 1) if count == 1 else named}"


def table(title: str | None = None) -> Table:
    """An empty table in the style of all sections.

    Args:
        title: Shown above it; None for none.

    Returns:
        The table.
    """
    return Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)


def print_rest(console: Console, count: int, what: str, shown: int = SHOWN) -> None:
    """Print how many rows are not shown, if any.

    Args:
        console: Where to print.
        count: Number of rows.
        what: The word for one of them.
        shown: Rows that are shown where not all of them are wanted.
    """
    most = most_rows(console, shown)
    if most is not None and count > most:
        console.print(f"  … and {counted(count - most, f'more {what}')} (all of them in --json FILE)")
