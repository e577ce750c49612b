"""What is counted: cases, how each ended, and what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["crash", "hang", "wrong", "lost"]
KINDS: tuple[Kind, ...] = ("crash", "hang", "wrong", "lost")
"""crash: a traceback, a signal, an exit code that is not documented, an error that is not one line. hang: over the
limit of time. wrong: a written model that does not load, or computes something else than its weights. lost: an input
or an earlier output that is changed, or files that were left behind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What went wrong in a case."""

    kind: Kind
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How a case ended, in words that are counted, and what went wrong."""

    case: str
    outcome: str
    failures: tuple[Failure, ...] = ()


Check = Callable[[str, Path], list[Verdict]]
"""A case by its name, and an empty folder for its files -> how it ended; several where a case is a series."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of the harness.

    Attributes:
        name: Of the part.
        title: What it tries, in one line.
        cases: Names of all cases; fewer where the argument (fast) is true.
        check: Runs one case.
        limit: Seconds for one case.
        skip: Why the part cannot run here; None where it can.
        memory: Whether the address space of a worker is limited.
    """

    name: str
    title: str
    cases: Callable[[bool], Sequence[str]]
    check: Check
    limit: float = 60.0
    skip: Callable[[], str | None] = lambda: None
    memory: bool = True


@dataclass(kw_only=True, slots=True)
class Tally:
    """The counts of a part. `left`: cases that were not tried."""

    part: str
    tried: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, Failure]] = field(default_factory=list)
    skipped: str | None = None
    left: int = 0
    seconds: float = 0.0

    def add(self, verdict: Verdict) -> None:
        """Count a case."""
        self.tried += 1
        self.outcomes[verdict.outcome] += 1
        self.failures += [(verdict.case, failure) for failure in verdict.failures]

    def count(self, kind: Kind) -> int:
        """Cases with a failure of that kind."""
        return len({case for case, failure in self.failures if failure.kind == kind})
