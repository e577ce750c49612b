"""Keywords of the Python interface, for type checkers. Made by tools/options from config/."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict


class Keywords(TypedDict, total=False):
    """What docs/options.md explains."""

    qem: float
    scope: Literal["layer", "model"]
    rule: str
    avg_bits: float | None
    max_size: str | int | None
    cost: str
    bits: int | str | Sequence[int]
    method: str
    granularity: str
    symmetric: bool
    baseline: Literal["int8", "same"]
    include: Sequence[str]
    exclude: Sequence[str]
    min_size: int
    max_drop: str | float | None
    min_sqnr: float | None
    min_agreement: str | float | None
    max_kl: float | None
    metric: str | Callable[[Path], float] | None
    metric_key: str | None
    lower_is_better: bool
    metric_timeout: float
    activations: Literal["float", "8", "dynamic", 8]
    activation_ranges: Literal["auto", "minmax", "percentile", "mse", "entropy"]
    cpu: Literal["any", "vnni"]
    optimize_for: Literal["speed", "size", "memory"] | None
    guard: bool
    target: str
    fused: Literal["auto", "always", "packed", "never"]
    exact: bool
    native_types: bool
    min_ort: str | tuple[int, int]
    data: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
    tokenizer: str | Callable[[str], Sequence[int]] | None
    sequence_length: int | None
    labels: str | Path | Iterable[int] | None
    eval_data: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
    data_free: bool
    rounding: Literal["compensated", "nearest"]
    seed: int
    iterations: int
    resume: str | Path | None
    effort: Literal["fast", "normal", "thorough"]
    jobs: int
    table: str | Path | None
    verify: bool
    benchmark: bool
    max_ms: str | float | None
    allow_unchanged: bool
