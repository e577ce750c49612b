"""Shapes of the weights of the ResNets (He et al. 2016, arXiv 1512.03385, table 1), for search and load."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def resnet(depth: int) -> list[tuple[int, ...]]:
    """Convolutions in order, then the classifier [1000, K]."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7)]
    channels = 64
    for width, count in zip((64, 128, 256, 512), BLOCKS[depth], strict=True):
        for position in range(count):
            if depth == 18:
                shapes += [(width, channels, 3, 3), (width, width, 3, 3)]
                out = width
            else:
                shapes += [(width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
                out = 4 * width
            if position == 0 and channels != out:
                shapes.append((out, channels, 1, 1))
            channels = out
    return [*shapes, (1000, channels)]


def weights(depth: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [(random.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for s in resnet(depth)]


def chain(count: int = 10) -> ModelProto:
    """A plain net of `count` convolutions 512 -> 512 of 3x3 and one of 512 -> 1024: 25 million weights and up."""
    random = np.random.default_rng(0)
    nodes, tensors, value = [], [], "x"
    for k in range(count):
        shape = (512, 512, 3, 3)
        weight = (random.standard_normal(shape) / 68).astype(np.float32)
        tensors.append(numpy_helper.from_array(weight, f"w{k}"))
        nodes.append(helper.make_node("Conv", [value, f"w{k}"], [f"y{k}"], name=f"conv{k}", pads=[1, 1, 1, 1]))
        value = f"y{k}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 512, 7, 7])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def network(depth: int) -> ModelProto:
    """A net of that depth on pictures [N, 3, 224, 224], weights at random, batch normalization folded."""
    nodes, tensors = [], []
    stored = iter(weights(depth))

    def layer(op: str, *inputs: str, **attributes: Any) -> str:
        output = f"v{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def conv(value: str, stride: int = 1, relu: bool = True) -> str:
        weight = next(stored)
        name = f"w{len(tensors)}"
        scaled = weight * np.float32(np.sqrt(2) if relu else 0.5)
        tensors.append(numpy_helper.from_array(scaled, name))
        tensors.append(numpy_helper.from_array(np.zeros(len(weight), np.float32), f"{name}b"))
        pad, size = weight.shape[2] // 2, weight.shape[2]
        made = layer("Conv", value, name, f"{name}b", strides=[stride] * 2, pads=[pad] * 4, kernel_shape=[size] * 2)
        return layer("Relu", made) if relu else made

    value = layer("MaxPool", conv("x", 2), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, (width, count) in enumerate(zip((64, 128, 256, 512), BLOCKS[depth], strict=True)):
        for position in range(count):
            stride = 2 if stage and not position else 1
            inner = conv(value, stride) if depth == 18 else conv(conv(value), stride)
            inner, out = conv(inner, relu=False), width if depth == 18 else 4 * width
            shortcut = value if position or channels == out else conv(value, stride, relu=False)
            value, channels = layer("Relu", layer("Add", inner, shortcut)), out
    classifier = next(stored)
    tensors += [numpy_helper.from_array(classifier, "fc"), numpy_helper.from_array(np.zeros(1000, np.float32), "fcb")]
    value = layer("Gemm", layer("Flatten", layer("GlobalAveragePool", value)), "fc", "fcb", transB=1)
    graph = helper.make_graph(
        nodes,
        "resnet",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["N", 1000])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
