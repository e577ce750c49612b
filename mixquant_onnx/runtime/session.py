"""ONNX Runtime sessions on the CPU.

Profile `deployed` has the default options, `exact` uses float activations in MatMulNBits, `as_written` computes every
QuantizeLinear and DequantizeLinear as a node of its own, without integer kernels, `unoptimized` computes nothing while
it loads.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import ModelProto

from mixquant_onnx.errors import first_line
from mixquant_onnx.model.external import message_of, write_outside
from mixquant_onnx.model.tensor_data import is_outside, place_of, refer
from mixquant_onnx.numerics.arrays import FloatArray

Profile = Literal["exact", "deployed", "as_written", "unoptimized"]
"""A set of session options; see the module."""
Feed = Mapping[str, FloatArray]
"""A batch: inputs of a model by name."""

_CONFIG: dict[Profile, dict[str, str]] = {
    "deployed": {},
    "exact": {"session.qdq_matmulnbits_accuracy_level": "1"},
    "as_written": {"session.disable_quant_qdq": "1"},
    "unoptimized": {"session.disable_prepacking": "1"},
}


_SEED = 0
"""Seed of random operators that have none of their own, so that runs are reproducible; the value does not matter."""


class RuntimeFailure(Exception):
    """ONNX Runtime refused to load or to run a model; the message is its first line."""


def version() -> str:
    """The installed release of onnxruntime."""
    import onnxruntime

    return str(onnxruntime.__version__)


class Session:
    """A loaded model.

    Args:
        model: A model, its bytes, or a file.
        profile: Session options.
        threads: Threads of one operator; 0 for as many as there are processors.

    Attributes:
        inputs: Names of its inputs.
        outputs: Names of its outputs, in order.

    Raises:
        RuntimeFailure: ONNX Runtime cannot load it.
    """

    def __init__(self, model: ModelProto | bytes | Path, profile: Profile = "deployed", threads: int = 0) -> None:
        import onnxruntime

        self.profile: Profile = profile
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.log_severity_level = 4
        # An arena grows in powers of two, and is not freed before the last output of its session
        # (docs/research/selection.md).
        options.enable_cpu_mem_arena = False
        # Runs alternate with NumPy computations, which spinning threads would slow down.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if profile == "unoptimized":
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        for key, value in _CONFIG[profile].items():
            options.add_session_config_entry(key, value)
        onnxruntime.set_seed(_SEED)
        try:
            self._session = _opened(model, options)
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise RuntimeFailure(first_line(error)) from error
        self.inputs: list[str] = [value.name for value in self._session.get_inputs()]
        self.outputs: list[str] = [output.name for output in self._session.get_outputs()]

    def run(self, feed: Feed, outputs: Sequence[str] | None = None) -> list[Any]:
        """Run the model on one batch.

        Args:
            feed: Inputs by name.
            outputs: Names of the outputs to compute; None for all.

        Returns:
            Outputs in order: arrays, lists for sequences, dictionaries for maps.

        Raises:
            RuntimeFailure: ONNX Runtime cannot run it.
        """
        try:
            return list(self._session.run(list(outputs) if outputs else None, dict(feed)))
        except Exception as error:  # as above
            raise RuntimeFailure(first_line(error)) from error


def _opened(model: ModelProto | bytes | Path, options: Any) -> Any:
    """ONNX Runtime's own session, on the CPU; `options` get what the model's data files need."""
    import onnxruntime

    with readable(model) as found:
        for key, value in found.config.items():
            options.add_session_config_entry(key, value)
        return onnxruntime.InferenceSession(found.source, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Readable:
    """A model as ONNX Runtime reads it.

    Attributes:
        source: Its bytes, or the name of a file.
        config: Entries of the session's configuration that go with it.
    """

    source: str | bytes
    config: Mapping[str, str]


_FOLDER = "session.model_external_initializers_file_folder_path"


@contextmanager
def readable(model: ModelProto | bytes | Path) -> Iterator[Readable]:
    """A model as ONNX Runtime reads it: bytes, or the name of a file, which a large model becomes for a while.

    Args:
        model: A model, its bytes, or a file.

    Yields:
        What a session is made of. The file may go once that is done, as it is mapped or read by then.
    """
    if not isinstance(model, ModelProto):
        yield Readable(source=str(model) if isinstance(model, Path) else model, config={})
        return
    folder = _one_folder(model)
    if folder is not None:
        yield Readable(source=_beside(model).SerializeToString(), config={_FOLDER: folder})
        return
    message = message_of(model)
    if message is not None:
        yield Readable(source=message, config={})
        return
    with tempfile.TemporaryDirectory() as made:
        written = write_outside(model, Path(made) / "model.onnx", "model.data")[0]
        yield Readable(source=str(written), config={})


def _one_folder(model: ModelProto) -> str | None:
    """The folder of all data files that a model refers to; None where there is none, or several."""
    files = {Path(place_of(tensor)[0]) for tensor in model.graph.initializer if is_outside(tensor)}
    folders = {file.parent for file in files if file.is_absolute() and file.is_file()}
    return str(folders.pop()) if len(folders) == 1 and all(file.is_file() for file in files) else None


def _beside(model: ModelProto) -> ModelProto:
    """A copy whose tensors refer to files by their names alone."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if is_outside(tensor):
            location, offset, length = place_of(tensor)
            refer(tensor, Path(location).name, offset, length)
    return copy


def dequantized_at_every_run(model: ModelProto) -> set[str]:
    """DequantizeLinear nodes that ONNX Runtime neither folds nor fuses, so that they run at every call.

    Args:
        model: The model.

    Returns:
        Their outputs, in the graph that ONNX Runtime saves after optimizing it.

    Raises:
        RuntimeFailure: The model does not load.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        try:
            _opened(model, options)
            optimized = onnx.load(options.optimized_model_filepath)
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise RuntimeFailure(first_line(error)) from error
    nodes = list(optimized.graph.node)
    dequantized: set[str] = set()
    while nodes:
        node = nodes.pop()
        if node.op_type == "DequantizeLinear":
            dequantized.update(node.output)
        for attribute in node.attribute:
            nodes.extend(attribute.g.node)
    return dequantized
