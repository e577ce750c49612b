"""Options of what is checked at the end."""

from __future__ import annotations

from dataclasses import dataclass

from mixquant_onnx.config import parsing
from mixquant_onnx.config.option import option


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckOptions:
    """What is checked at the end."""

    verify: bool = option(True, "write without verification", flag="--no-verify", accepts="bool", kind="off")
    benchmark: bool = option(
        False, "time of one row with one and two threads, and memory, of the written model and the float one",
        accepts="bool", kind="switch",
    )  # fmt: skip
    max_ms: str | None = option(
        None, "at most 0.5x of float's time for one row with one thread, or 12 milliseconds, measured here; with "
        "--activations fewer layers stay in float until that holds",
        accepts="str | float | None", metavar="TIME", convert=parsing.time_limit,
    )  # fmt: skip
    allow_unchanged: bool = option(False, "exit 0 even when nothing was quantized", accepts="bool", kind="switch")
