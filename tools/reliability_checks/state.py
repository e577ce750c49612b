"""What was tried, line by line in a file, so that a long run can be stopped and go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from reliability_checks.verdict import Failure, Verdict


class State:
    """Cases with their verdicts; None for no file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.known: dict[str, list[Verdict]] = {}
        self.seconds = 0.0
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf8").splitlines():
                self._add(json.loads(line))
        elif path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    def _add(self, entry: dict[str, object]) -> None:
        verdicts = entry["verdicts"]
        assert isinstance(verdicts, list)
        self.known[str(entry["case"])] = [
            Verdict(case=v["case"], outcome=v["outcome"], failures=tuple(Failure(**one) for one in v["failures"]))
            for v in verdicts
        ]
        self.seconds += float(str(entry["seconds"]))

    def keep(self, case: str, verdicts: Sequence[Verdict], seconds: float) -> None:
        """Add a case, and the seconds that went by since the one before."""
        self.seconds += seconds
        if self._path is not None:
            entry = {"case": case, "seconds": round(seconds, 3), "verdicts": [asdict(one) for one in verdicts]}
            with self._path.open("a", encoding="utf8") as stream:
                stream.write(json.dumps(entry) + "\n")
