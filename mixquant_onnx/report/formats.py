"""Numbers and names as JSON and as text."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console
from rich.table import Table

SHOWN = 12
"""Most rows of a table in a terminal; --json has all of them."""


def finite(value: float | None) -> float | str | None:
    """A number for JSON, which has no infinities: these as "inf" and "-inf", NaN as None."""
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def decibels(value: float | str | None) -> str:
    """An SQNR as `finite` gives it. "inf" has no error, "-inf" no signal."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return "exact" if value == "inf" else "no signal"
    return f"{value:.1f} dB"


def size(nbytes: int) -> str:
    """Bytes in MB from 0.1 MB on, else in kB."""
    return f"{nbytes / 1e6:.2f} MB" if nbytes >= 100_000 else f"{nbytes / 1e3:.1f} kB"


def short(name: str, width: int = 36) -> str:
    """The end of a name that is longer than `width` characters: what distinguishes weights is at the end."""
    return name if len(name) <= width else "…" + name[1 - width :]


def table(title: str | None = None) -> Table:
    """An empty table in the style of all sections."""
    return Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)


def print_rest(console: Console, count: int, what: str, shown: int = SHOWN) -> None:
    """Say how many of `count` are not shown, if any."""
    if count > shown:
        console.print(f"  … and {count - shown} more {what} (all of them in --json FILE)")
