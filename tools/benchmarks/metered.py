"""metered.py LOG COMMAND...: run the command and append what it took to LOG, one line of JSON.

The process that starts another lends it its own peak of memory until the other is there, so this one stays small.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

_EVERY = 0.05
"""Seconds between looks at the memory of the command alone."""

_UNIT = 1 if sys.platform == "darwin" else 1024


class _Watch(threading.Thread):
    """The peak of the process alone, in bytes: the system's own count takes in its children."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self._ended = threading.Event()
        self._peak = 0

    def run(self) -> None:
        while not self._ended.wait(_EVERY):
            try:
                found = re.search(r"VmHWM:\s*(\d+) kB", self._status.read_text())
            except OSError:
                return
            self._peak = max(self._peak, 1024 * int(found[1]) if found else 0)

    def stop(self) -> int:
        self._ended.set()
        self.join()
        return self._peak


def main(log: str, *command: str) -> int:
    started = time.perf_counter()
    process = subprocess.Popen(command)
    watch = _Watch(process.pid)
    watch.start()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    mine = resource.getrusage(resource.RUSAGE_SELF)
    taken = {
        "cpu": used.ru_utime + used.ru_stime, "wall": wall, "peak": used.ru_maxrss * _UNIT, "alone": watch.stop(),
        "meter": mine.ru_utime + mine.ru_stime,
    }  # fmt: skip
    with Path(log).open("a", encoding="utf8") as file:
        file.write(json.dumps(taken) + "\n")
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
