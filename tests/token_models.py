"""Small models that read token ids and give logits of the next token."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

VOCABULARY, WIDTH = 48, 32


def token_model(
    *, causal: bool = True, output: str = "logits", softmax: bool = False, mask: bool = False
) -> ModelProto:
    """Logits of each token from its embedding; not `causal`: and from the mean over those of the mask."""
    random = np.random.default_rng(0)
    shapes = {"embedding": (VOCABULARY, WIDTH), "up": (WIDTH, 2 * WIDTH), "down": (2 * WIDTH, WIDTH)}
    shapes["head"] = (WIDTH, VOCABULARY)
    stored = [
        numpy_helper.from_array((random.standard_normal(shape) / np.sqrt(shape[0] / 8)).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    stored.append(numpy_helper.from_array(np.array([2]), "last"))
    nodes = [
        helper.make_node("Gather", ["embedding", "ids"], ["e"]),
        helper.make_node("MatMul", ["e", "up"], ["u"]),
        helper.make_node("Relu", ["u"], ["r"]),
        helper.make_node("MatMul", ["r", "down"], ["d"]),
        helper.make_node("Add", ["e", "d"], ["own"]),
        *(_masked("own", "seen") if mask else [helper.make_node("Identity", ["own"], ["seen"])]),
        helper.make_node("ReduceMean", ["seen"], ["all"], axes=[1], keepdims=1),
        *([] if causal else [helper.make_node("Add", ["own", "all"], ["both"])]),
        helper.make_node("MatMul", ["own" if causal else "both", "head"], ["scores" if softmax else output]),
        *([helper.make_node("Softmax", ["scores"], [output], axis=-1)] if softmax else []),
    ]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"])]
    if mask:
        nodes.append(helper.make_node("Identity", ["attention_mask"], ["mask_out"]))
        inputs.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["n", "t"]))
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", "t", VOCABULARY])]
    if mask:
        outputs.append(helper.make_tensor_value_info("mask_out", TensorProto.INT64, ["n", "t"]))
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _masked(value: str, output: str) -> list[NodeProto]:
    return [
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["kept_rows"]),
        helper.make_node("Mul", [value, "kept_rows"], [output]),
    ]


def token_ids(rows: int = 32, tokens: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (rows, tokens))
