"""Part 1: valid models at random through load, plan, rewrite and execution, each compared with a reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from onnx import ModelProto
from test_never_grows import GOALS, OPTIONS, models

import mixquant_onnx as mq
from mixquant_onnx.errors import MixquantError
from reliability_checks.command import changed, contents
from reliability_checks.graphs import chains
from reliability_checks.reference import disagreement
from reliability_checks.verdict import Failure, Part, Verdict

SERIES = 20
"""Models of one case: hypothesis begins each series with a simple one."""

MORE = st.fixed_dictionaries({}, optional={
    "optimize_for": st.sampled_from(["size", "memory"]),
    "exact": st.just(True),
    "allow_unchanged": st.just(True),
})  # fmt: skip


def cases(fast: bool) -> Sequence[str]:
    """Names of the series."""
    return [str(number) for number in range(5 if fast else 100)]


def check(case: str, folder: Path) -> list[Verdict]:
    """A series of models."""
    found: list[Verdict] = []

    @seed(int(case))
    @settings(
        max_examples=SERIES, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.one_of(chains(), chains(), models(only_what_runs=True)), OPTIONS, GOALS, MORE, st.booleans())
    def each(model: ModelProto, options: Any, goal: Any, more: Any, external: bool) -> None:
        if len(found) < SERIES:
            own = folder / str(len(found))
            own.mkdir()
            found.append(
                _guarded(f"{case}/{len(found)}", own, model, {"min_size": 1, **options, **goal, **more}, external)
            )

    each()
    return found


def _guarded(case: str, folder: Path, model: ModelProto, options: dict[str, Any], external: bool) -> Verdict:
    """As `_one`; an error of the check must not reach hypothesis, which would run the model again."""
    try:
        return _one(case, folder, model, options, external)
    except Exception as error:  # as said
        told = Failure(kind="crash", detail=f"the check itself failed: {type(error).__name__}: {error}")
        return Verdict(case=case, outcome="failed", failures=(told,))


def _one(case: str, folder: Path, model: ModelProto, options: dict[str, Any], external: bool) -> Verdict:
    source, output = folder / "in.onnx", folder / "out.onnx"
    onnx.save(model, source, save_as_external_data=external, location="in.data", size_threshold=64)
    (folder / "options.txt").write_text(repr(options))
    if options.get("optimize_for") == "memory":
        options = {k: v for k, v in options.items() if k not in ("target", "fused", "min_ort", "exact")}
    elif options["target"] == "qdq" or options["fused"] == "always":
        options = {k: v for k, v in options.items() if k != "exact"}
    before = contents(folder)
    try:
        result = mq.quantize(source, output, **options)
    except MixquantError as error:
        failures = changed(before, contents(folder))
        if "verification failed" in str(error):
            failures.append(Failure(kind="wrong", detail=f"{error}"))
        return Verdict(case=case, outcome=_kind(error), failures=tuple(failures))
    except Exception as error:  # what is looked for
        told = Failure(kind="crash", detail=f"{type(error).__name__}: {error} with {options}")
        return Verdict(case=case, outcome="traceback", failures=(told,))
    what, wrong = disagreement(source, result)
    failures = changed(before, contents(folder), [file.name for file in result.files])
    failures += [] if wrong is None else [Failure(kind="wrong", detail=f"{wrong} with {options}")]
    return Verdict(case=case, outcome=f"written, {what}", failures=tuple(failures))


def _kind(error: MixquantError) -> str:
    return f"exit {error.exit_code} ({type(error).__name__})"


PART = Part(name="generated", title="valid models at random", cases=cases, check=check, limit=300)
