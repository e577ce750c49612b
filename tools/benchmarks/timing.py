"""Interleaved timing: ratios of medians taken in one run. Never compare figures of two runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Action = Callable[[], object]


def session(source: bytes | str, threads: int = 1) -> Any:
    """Default options but for the number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def medians(actions: Sequence[Action], rounds: int = 21, at_least: float = 3e-4) -> list[float]:
    """Median seconds of each action; in every round each runs long enough to be timed, in turn."""
    counts = []
    for action in actions:
        action()
        start = time.perf_counter()
        action()
        counts.append(max(1, int(at_least / max(time.perf_counter() - start, 1e-7))))
    times: list[list[float]] = [[] for _ in actions]
    for turn in range(rounds):
        order = range(len(actions)) if turn % 2 == 0 else reversed(range(len(actions)))
        for k in order:
            start = time.perf_counter()
            for _ in range(counts[k]):
                actions[k]()
            times[k].append((time.perf_counter() - start) / counts[k])
    return [float(np.median(t)) for t in times]


def ratios(actions: Sequence[Action], limit: float = 1.05, tries: int = 3) -> list[float]:
    """Median of each action as a share of the first's. A share over `limit` is measured again, longer;
    the median of the tries counts, so that one disturbance is not taken for a slow kernel."""
    kept: list[list[float]] = []
    for turn in range(tries):
        times = medians(actions, rounds=21 * (turn + 1))
        kept.append([t / times[0] for t in times[1:]])
        if turn == 0 and max(kept[0]) <= limit:
            break
    return [float(np.median(column)) for column in zip(*kept, strict=True)]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def versions() -> str:
    import platform

    import onnx

    return (
        f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()} {instructions()}, one thread unless said"
    )


def instructions() -> str:
    """What decides how fast low-bit kernels are on this processor."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.is_file() else set()
    found = [name for flag, name in _FLAGS.items() if flag in flags]
    return f"with {' and '.join(found)}" if found else "(instructions not known)"


_FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx_vnni": "VNNI", "avx512_vnni": "AVX-512 VNNI", "amx_int8": "AMX"}
