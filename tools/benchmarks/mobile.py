"""A net with the stages of EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946, table 1), weights at random."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
          (6, 320, 1, 1, 3))  # fmt: skip
"""Expansion, channels, layers, stride, size of the kernel."""


class _Net:
    """Nodes and tensors, in order."""

    def __init__(self, activation: str) -> None:
        self.random, self.activation = np.random.default_rng(0), activation
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def stored(self, value: np.ndarray) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def conv(self, value: str, inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> str:
        """A convolution and its batch normalization."""
        shape = (outputs, inputs // groups, size, size)
        weight = self.random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        made = self.node("Conv", value, self.stored(weight), kernel_shape=[size] * 2, strides=[stride] * 2,
                         pads=[size // 2] * 4, group=groups)  # fmt: skip
        spread = self.random.uniform(0.5, 1.5, (4, outputs)) * [[1], [0.2], [0.1], [1]]
        return self.node("BatchNormalization", made, *(self.stored(row) for row in spread))

    def active(self, value: str) -> str:
        if self.activation == "HardSwish":
            return self.node("HardSwish", value)
        return self.node("Mul", value, self.node("Sigmoid", value))

    def excited(self, value: str, channels: int, narrow: int) -> str:
        """Squeeze and excite."""
        axes = numpy_helper.from_array(np.array([2, 3]), f"t{len(self.tensors)}")
        self.tensors.append(axes)
        mean = self.node("ReduceMean", value, axes.name, keepdims=1)
        inner = self.active(self.conv(mean, channels, narrow))
        gate = "HardSigmoid" if self.activation == "HardSwish" else "Sigmoid"
        return self.node("Mul", value, self.node(gate, self.conv(inner, narrow, channels)))


def mobile(activation: str) -> ModelProto:
    """The net.

    Args:
        activation: HardSwish (its gates are HardSigmoid then) or SiLU.

    Returns:
        The model, for pictures [N, 3, 224, 224].
    """
    net = _Net(activation)
    value, channels = net.active(net.conv("x", 3, 32, 3, 2)), 32
    for expansion, outputs, layers, stride, size in STAGES:
        for k in range(layers):
            wide, inner = channels * expansion, value
            if expansion > 1:
                inner = net.active(net.conv(inner, channels, wide))
            inner = net.active(net.conv(inner, wide, wide, size, stride if k == 0 else 1, wide))
            inner = net.conv(net.excited(inner, wide, max(channels // 4, 8)), wide, outputs)
            value = net.node("Add", inner, value) if k else inner
            channels = outputs
    value = net.active(net.conv(value, channels, 1280))
    classifier = net.stored(net.random.standard_normal((1000, 1280)) / 36)
    value = net.node("Gemm", net.node("Flatten", net.node("GlobalAveragePool", value)), classifier, transB=1)
    graph = helper.make_graph(
        net.nodes,
        "mobile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["N", 1000])],
        net.tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
