"""LSTMs on integers compute what LSTMs with the same weights do, but for the rounding of inputs and states."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from mixquant_onnx.errors import ProofError
from mixquant_onnx.export.quantized_lstm import KERNEL
from mixquant_onnx.model.constants import label
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.model.tensor_data import values_of
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.verification.codes import model_like, needed

MOST_NOISE = 0.01
"""Noise-to-signal ratio of the outputs (20 dB); 36 dB and more were measured (docs/research/activations.md)."""

_STEPS = 8
_SEED = 0


def check_lstms(saved: ModelProto, plain: ModelProto) -> None:
    """Compare every LSTM alone, on random inputs from a state of zeros.

    Args:
        saved: The written model.
        plain: The same with LSTM in place of the kernel.

    Raises:
        ProofError: One computes something else.
        RuntimeFailure: One does not run.
    """
    others = {name: node for node in plain.graph.node for name in node.output if name}
    for node in saved.graph.node:
        if node.op_type == KERNEL:
            same = others[next(name for name in node.output if name)]
            outputs = [_outputs(model, one) for model, one in ((plain, same), (saved, node))]
            if not relative_noise([[outputs[0]]], [[outputs[1]]]) <= MOST_NOISE:
                raise ProofError(f"verification failed at '{label(node)}': on integers it computes something else")


def _outputs(model: ModelProto, node: NodeProto) -> FloatArray:
    """The states of one node."""
    alone = NodeProto()
    alone.CopyFrom(node)
    for index in range(4, min(len(alone.input), 8)):
        alone.input[index] = ""
    constant = [name for name in alone.input[1:] if name]
    nodes, tensors = needed(walk(model)[0], constant)
    alone.input[0], alone.output[0] = "x", "y"
    del alone.output[1:]
    size = next(t for t in model.graph.initializer if t.name == _shape_of_weight(model, node))
    inputs = int(values_of(size)[-1])
    graph = helper.make_graph(
        [*nodes, alone], "lstm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [_STEPS, 1, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], tensors,
    )  # fmt: skip
    x = np.random.default_rng(_SEED).standard_normal((_STEPS, 1, inputs)).astype(np.float32)
    return np.asarray(Session(model_like(model, graph)).run({"x": x})[0])


def _shape_of_weight(model: ModelProto, node: NodeProto) -> str:
    """Name of the shape [directions, 4 x hidden, inputs] of the weight of inputs."""
    maker = {name: one for one in model.graph.node for name in one.output}
    made = maker[node.input[1]]
    return str((made if made.op_type == "Reshape" else maker[made.input[0]]).input[1])
