"""The Python interface of `mixquant-onnx compare`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto

from mixquant_onnx.config.config import config_of
from mixquant_onnx.data.preparation import all_rows
from mixquant_onnx.errors import DataError, ModelError
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.model.files import as_loaded
from mixquant_onnx.model.soundness import blamed
from mixquant_onnx.runtime.session import RuntimeFailure
from mixquant_onnx.verification.comparison import Comparison
from mixquant_onnx.verification.comparison import compare as compared


def compare(
    model: str | Path | ModelProto | Any,
    other: str | Path | ModelProto | Any,
    *,
    data: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    tokenizer: str | Callable[[str], Sequence[int]] | None = None,
    sequence_length: int | None = None,
    labels: str | Path | Iterable[int] | None = None,
    data_free: bool = False,
    benchmark: bool = True,
    max_slower: str | None = None,
    progress: Progress = quiet,
) -> Comparison:
    """Compare a model with another one that is to stand for it, made by whatever tool.

    Args:
        model: The float model: a path, an onnx ModelProto or an onnx_graphsurgeon Graph.
        other: The other one, of the same inputs and outputs.
        data: Samples, as for `quantize`; without, proxy inputs are generated.
        tokenizer: A function that makes token ids of texts, as for `quantize`.
        sequence_length: Tokens of a row, as for `quantize`.
        labels: Classes of the samples: a file, or class numbers.
        data_free: Whether to generate noise instead.
        benchmark: Whether to measure time and memory.
        max_slower: A limit of time, such as `1.05x`; near it time is measured up to five times, and the median counts.
        progress: Called with the stage, and how many of how many steps are done.

    Returns:
        The differences; `accuracy.gates.judged` compares them with limits.

    Raises:
        MixquantError: ModelError; DataError where the first model does not run on the samples; ProofError where the
            other one does not load or run, or has other inputs or outputs.
    """
    texts = {"tokenizer": tokenizer, "sequence_length": sequence_length}
    given = {**texts, "data": data, "labels": labels, "data_free": data_free}
    options = config_of(**{key: value for key, value in given.items() if value is not None}).data
    first, second = as_loaded(model), as_loaded(other)
    try:
        with blamed(first):
            rows = all_rows(first.model, options)
    except RuntimeFailure as failure:
        raise ModelError(f"the first model does not load: {failure}") from failure
    if rows is None:
        raise DataError("no input is known that the first model runs on; give --data")
    with blamed(first, second):
        return compared(first, second, rows, timed=benchmark, max_slower=max_slower, progress=progress)
