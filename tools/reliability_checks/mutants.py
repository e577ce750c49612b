"""Part 2: mutants of valid files. Each must be written and right, or refused in one line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

from cases import classifier, put, text
from test_graph_cases import MICROSOFT, OPERATORS
from test_graph_flow import FLOW, model_of

import mixquant_onnx as mq
from reliability_checks.command import Ended, called, changed, contents
from reliability_checks.mutations import MUTATIONS, SHARES
from reliability_checks.reference import disagreement
from reliability_checks.verdict import Failure, Part, Verdict

COMMANDS: Sequence[tuple[str, ...]] = (
    ("in.onnx", "out.onnx"),
    ("in.onnx", "out.onnx", "--data-free"),
    ("in.onnx", "out.onnx", "--data-free", "--bits", "3", "--min-size", "1"),
    ("in.onnx", "out.onnx", "--target", "qdq", "--bits", "4,8"),
    ("in.onnx", "out.onnx", "--for", "memory"),
    ("in.onnx", "out.onnx", "--for", "speed"),
    ("in.onnx", "out.onnx", "--avg-bits", "5"),
    ("in.onnx", "out.onnx", "--no-verify", "--data-free", "--allow-unchanged"),
    ("in.onnx", "out.onnx", "--json", "-", "-v"),
    ("inspect", "in.onnx"),
    ("sweep", "in.onnx", "--qem", "1,4"),
    ("compare", "good.onnx", "in.onnx", "--no-benchmark"),
)


@cache
def bases() -> Mapping[str, bytes]:
    """Valid files by name."""
    models = {"classifier": classifier(), "quantized already": mq.quantize(classifier(), data_free=True).model}
    for name, (graph, tensors) in OPERATORS.items():
        models[name] = text(f"g {graph}", imports=MICROSOFT)
        for weight, value in tensors.items():
            put(models[name], weight, value)
    models |= {name: model_of(name) for name in FLOW}
    return {name: model.SerializeToString() for name, model in models.items()}


def cases(fast: bool) -> Sequence[str]:
    """Names of the mutants: a mutation and a seed."""
    count = 200 if fast else 5000
    total = sum(SHARES.get(name, 1) for name in MUTATIONS)
    numbers = {name: -(-count * SHARES.get(name, 1) // total) for name in MUTATIONS}
    return [f"{name}:{k}" for k in range(count) for name in MUTATIONS if k < numbers[name]][:count]


def mutant(case: str) -> tuple[bytes, tuple[str, ...]]:
    """The file, and the command that it is given to."""
    name, _ = case.split(":")
    random = Random(case)
    data = bases()[random.choice(list(bases()))]
    return MUTATIONS[name](data, random), random.choice(COMMANDS)


def check(case: str, folder: Path) -> list[Verdict]:
    """One mutant."""
    data, command = mutant(case)
    source = folder / "in.onnx"
    source.write_bytes(data)
    (folder / "good.onnx").write_bytes(bases()["classifier"])
    before = contents(folder)
    os.chdir(folder)
    end = called(command)
    failures = end.failures()
    written = [] if end.result is None else [file.name for file in end.result.files]
    failures += changed(before, contents(folder), written)
    outcome, wrong = _compared(end, source, command[0])
    failures += [] if wrong is None else [Failure(kind="wrong", detail=wrong)]
    told = tuple(replace(one, detail=f"{one.detail} ({' '.join(command)})") for one in failures)
    return [Verdict(case=case, outcome=outcome, failures=told)]


def _compared(end: Ended, source: Path, command: str) -> tuple[str, str | None]:
    if end.code or end.result is None:
        return (end.outcome if end.code else f"{command} told"), None
    if not end.result.quantized:
        return "copied", None
    what, wrong = disagreement(source, end.result)
    return f"written: {what}", wrong


PART = Part(name="mutants", title="mutants of valid files", cases=cases, check=check, limit=120)
