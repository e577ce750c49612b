"""Kernels on packed codes compute what MatMul and Gather do with the decoded weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from mixquant_onnx.errors import ProofError
from mixquant_onnx.export.packed_operators import KERNEL_DOMAIN, PRODUCT, TABLE, plain_operators
from mixquant_onnx.model.constants import label
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.verification.codes import model_like, needed

MOST_NOISE = 1e-7
"""Noise-to-signal ratio of a kernel with float activations (70 dB); 130 dB were measured, a wrong layout leaves 0."""

_ROWS = 3
_SEED = 0


def check_packed(saved: ModelProto, packed: Mapping[str, str], nodes: Sequence[NodeProto] | None = None) -> None:
    """Compare every kernel alone with its float operator, on random activations or on all kinds of rows.

    Args:
        saved: The written model.
        packed: As `Rewritten.packed`.
        nodes: Those to compare; None for all.

    Raises:
        ProofError: One computes something else.
        RuntimeFailure: One does not run.
    """
    for node in saved.graph.node if nodes is None else nodes:
        if node.domain == KERNEL_DOMAIN and node.op_type in (PRODUCT, TABLE) and set(node.input) & set(packed):
            one = _alone(saved, node)
            feed = _feed(one)
            kernel, plain = (np.asarray(Session(model).run(feed)[0]) for model in (one, plain_operators(one, packed)))
            # Rows of a table that shares the codes of a product come in blocks.
            if not relative_noise([[plain]], [[kernel.reshape(plain.shape)]]) <= MOST_NOISE:
                raise ProofError(f"verification failed at '{label(node)}': the kernel computes something else")


def _alone(model: ModelProto, node: NodeProto) -> ModelProto:
    """A model of one kernel, with float activations."""
    alone = NodeProto()
    alone.CopyFrom(node)
    product = node.op_type == PRODUCT
    nodes, tensors = needed(walk(model)[0], [name for name in node.input if name != _given(node)])
    alone.input[0 if product else 1], alone.output[0] = "x", "y"
    kept = [attribute for attribute in alone.attribute if attribute.name != "accuracy_level"]
    del alone.attribute[:]
    alone.attribute.extend(kept)
    kind = TensorProto.FLOAT if product else TensorProto.INT64
    graph = helper.make_graph(
        [*nodes, alone], "kernel", [helper.make_tensor_value_info("x", kind, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], tensors,
    )  # fmt: skip
    return model_like(model, graph)


def _given(node: NodeProto) -> str:
    """The input that is no constant."""
    return str(node.input[0] if node.op_type == PRODUCT else node.input[1])


def _feed(one: ModelProto) -> dict[str, FloatArray]:
    node, random = one.graph.node[-1], np.random.default_rng(_SEED)
    if node.op_type == PRODUCT:
        length = next(attribute.i for attribute in node.attribute if attribute.name == "K")
        return {"x": random.standard_normal((_ROWS, length)).astype(np.float32)}
    codes = next(tensor for tensor in one.graph.initializer if tensor.name == node.input[0])
    return {"x": np.arange(codes.dims[0], dtype=np.int64)[:_MOST_ROWS]}


_MOST_ROWS = 4096
"""Rows of a table that are looked up."""
