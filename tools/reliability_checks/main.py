"""tools/reliability [PART ...]: hostile and faulty runs of the command, counted; exits with 1 where one went wrong."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
for place in ("", "tests", "tools"):
    sys.path.insert(0, str(ROOT / place))

from reliability_checks import table  # noqa: E402 - found by the lines above
from reliability_checks.parts import PARTS  # noqa: E402
from reliability_checks.state import State  # noqa: E402
from reliability_checks.verdict import Part, Tally  # noqa: E402
from reliability_checks.workers import results  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run parts, print what was counted; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(prog="tools/reliability", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--fast", action="store_true", help="a few cases of each")
    parser.add_argument("--case", metavar="CASE", help="this case of one part alone; its files are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts")
    parser.add_argument("--state", type=Path, metavar="DIR", help="keep what was tried here, and go on from it")
    parser.add_argument("--known", action="store_true", help="try nothing more than what --state holds")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="cases at a time")
    parser.add_argument("--write", action="store_true", help="put the counts into docs/reliability.md")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown or (options.case is not None and len(options.parts) != 1):
        parser.error(f"{', '.join(unknown) or '--case'}: name one part of {', '.join(PARTS)}")
    chosen = [PARTS[name] for name in options.parts or PARTS]
    if options.case is not None:
        return one_case(chosen[0], options.case)
    count = 0 if options.known else options.processes
    tallies = [tally(part, options.fast, count, options.state) for part in chosen]
    print(table.counts(tallies))
    if options.json is not None:
        options.json.write_text(table.as_json(tallies), encoding="utf8")
    if options.write:
        table.write(tallies)
    return int(any(found.failures for found in tallies))


def tally(part: Part, fast: bool, processes: int, folder: Path | None = None) -> Tally:
    """Run a part; failures are printed as they come. What `folder` holds of an earlier run is not run again."""
    found = Tally(part=part.name, skipped=part.skip())
    if found.skipped is not None:
        return found
    state = State(None if folder is None else folder / f"{part.name}.jsonl")
    for case in (cases := part.cases(fast)):
        for verdict in state.known.get(case, []):
            found.add(verdict)
    start = time.monotonic()
    left = [case for case in cases if case not in state.known] if processes else []
    found.left = len(cases) - len(state.known) if not processes else 0
    for case, verdicts in results(part, left, processes):
        state.keep(case, verdicts, time.monotonic() - start)
        start = time.monotonic()
        for verdict in verdicts:
            found.add(verdict)
            for failure in verdict.failures:
                again = f"tools/reliability {part.name} --case '{verdict.case}'"
                print(f"{failure.kind}: {failure.detail}\n  {again}", file=sys.stderr, flush=True)
    found.seconds = state.seconds
    return found


def one_case(part: Part, case: str) -> int:
    """Run a case in this process, with its files kept."""
    folder = Path(tempfile.mkdtemp(prefix=f"reliability.{part.name}."))
    found = part.check(case.split("/")[0] if part.name == "generated" else case, folder)
    for verdict in found:
        if verdict.case == case or len(found) == 1:
            print(f"{verdict.case}: {verdict.outcome}")
            for failure in verdict.failures:
                print(f"{failure.kind}: {failure.detail}")
    print(f"files: {folder}")
    return int(any(verdict.failures for verdict in found if verdict.case == case or len(found) == 1))


if __name__ == "__main__":
    raise SystemExit(main())
