"""Decoder-shaped models of any size, written tensor by tensor, for measurements of memory."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from onnx import NodeProto, TensorProto, helper

HIDDEN = 2048
VOCABULARY = 32_000


class _Writer:
    """Collects nodes and external tensors of random values; a tensor is in memory only while it is written."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        self._stream, self._name, self._random = stream, name, np.random.default_rng(0)

    def tensor(self, name: str, *shape: int) -> str:
        made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        count = int(np.prod(shape))
        for key, value in (("location", self._name), ("offset", self._stream.tell()), ("length", 4 * count)):
            made.external_data.add(key=key, value=str(value))
        for start in range(0, count, 1 << 22):
            values = self._random.standard_normal(min(count - start, 1 << 22), np.float32)
            self._stream.write((values / np.sqrt(np.float32(shape[0]))).tobytes())
        self.tensors.append(made)
        return name

    def node(self, op: str, inputs: list[str], output: str) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output))
        return output


def write_decoder(path: Path, nbytes: int, hidden: int = HIDDEN, vocabulary: int = VOCABULARY) -> None:
    """Write a model of embedding, layers of four products with residual connections, and (untied) logits of the last.

    Args:
        path: The .onnx file; its data go beside, with the name `<path>.data`.
        nbytes: About how large it is to be; at least the embedding and one layer.
        hidden: Width of the layers; the inner ones are four times as wide.
        vocabulary: Rows of the embedding.
    """
    data = path.with_name(f"{path.name}.data")
    with data.open("wb") as stream:
        made = _Writer(stream, data.name)
        x = made.node("Gather", [made.tensor("embedding", vocabulary, hidden), "ids"], "h0")
        inner, layer = 4 * hidden, 0
        each = 4 * (2 * hidden * hidden + 2 * hidden * inner)
        while layer == 0 or stream.tell() + each / 2 <= nbytes:
            x = _layer(made, x, layer, hidden, inner)
            layer += 1
    graph = helper.make_graph(
        made.nodes, "decoder", [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", "sequence", hidden])], made.tensors,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def _layer(made: _Writer, x: str, layer: int, hidden: int, inner: int) -> str:
    def product(name: str, given: str, rows: int, columns: int) -> str:
        return made.node("MatMul", [given, made.tensor(f"{name}{layer}.weight", rows, columns)], f"{name}{layer}")

    mixed = product("o", made.node("Tanh", [product("q", x, hidden, hidden)], f"t{layer}"), hidden, hidden)
    x = made.node("Add", [x, mixed], f"a{layer}")
    down = product("down", made.node("Relu", [product("up", x, hidden, inner)], f"r{layer}"), inner, hidden)
    return made.node("Add", [x, down], f"h{layer + 1}")
