"""ONNX Runtime sessions. Profile `deployed` has the default options, `exact` float activations in MatMulNBits,
`as_written` computes every QuantizeLinear and DequantizeLinear by itself, without integer kernels."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import ModelProto

from mixquant_onnx.errors import first_line
from mixquant_onnx.numerics.arrays import FloatArray

Profile = Literal["exact", "deployed", "as_written"]
Feed = Mapping[str, FloatArray]

_CONFIG: dict[Profile, dict[str, str]] = {
    "deployed": {},
    "exact": {"session.qdq_matmulnbits_accuracy_level": "1"},
    "as_written": {"session.disable_quant_qdq": "1"},
}


_SEED = 0
"""Of random operators without a seed of their own, which would make another file at every run."""


class RuntimeFailure(Exception):
    """ONNX Runtime refused to load or to run a model; the message is its first line."""


def version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


class Session:
    """A loaded model. Raises RuntimeFailure when ONNX Runtime cannot load it."""

    def __init__(self, model: ModelProto | bytes | Path, profile: Profile = "deployed", threads: int = 0) -> None:
        import onnxruntime

        self.profile: Profile = profile
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.log_severity_level = 4
        # Runs alternate with NumPy's, whose threads waiting ones would hold up.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for key, value in _CONFIG[profile].items():
            options.add_session_config_entry(key, value)
        source = model.SerializeToString() if isinstance(model, ModelProto) else model
        source = str(source) if isinstance(source, Path) else source
        onnxruntime.set_seed(_SEED)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise RuntimeFailure(first_line(error)) from error
        self.inputs: list[str] = [value.name for value in self._session.get_inputs()]
        self.outputs: list[str] = [output.name for output in self._session.get_outputs()]

    def run(self, feed: Feed, outputs: Sequence[str] | None = None) -> list[Any]:
        """Outputs in order. Raises RuntimeFailure."""
        try:
            return list(self._session.run(list(outputs) if outputs else None, dict(feed)))
        except Exception as error:  # as above
            raise RuntimeFailure(first_line(error)) from error


def dequantized_at_every_run(model: ModelProto) -> set[str]:
    """Outputs of the DequantizeLinear nodes that ONNX Runtime leaves in `model` after optimizing it.

    Each of them runs at every call. Raises RuntimeFailure when the model does not load.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            optimized = onnx.load(options.optimized_model_filepath)
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise RuntimeFailure(first_line(error)) from error
    nodes = list(optimized.graph.node)
    found: set[str] = set()
    while nodes:
        node = nodes.pop()
        if node.op_type == "DequantizeLinear":
            found.update(node.output)
        for attribute in node.attribute:
            nodes.extend(attribute.g.node)
    return found
