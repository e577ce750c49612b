"""Who makes and who reads the values of a main graph."""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from mixquant_onnx.model.dependencies import read_inside
from mixquant_onnx.model.operators import domain_of
from mixquant_onnx.model.scalars import scalars_of

_CLIPS = frozenset({"Relu", "Clip"})
"""Operators that ONNX Runtime removes where the range of the following QuantizeLinear implies them."""

KEEP_GRID = frozenset({
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Tile",
    "DepthToSpace", "Resize",
})  # fmt: skip
"""Operators whose results are some of their first input's values, which ONNX Runtime runs on codes as they are."""

_SILU_FLOOR = -8.0
"""Below, x * sigmoid(x) is nearer to 0 than -0.003."""


class ValueGraph:
    """Readers and producers of the values of a main graph."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.scalars = scalars_of(model)
        self.nodes = list(graph.node)
        self.outputs = {value.name for value in graph.output}
        self.constants = {tensor.name for tensor in graph.initializer}
        self.constants.update(o for n in self.nodes if n.op_type == "Constant" for o in n.output)
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        self.captured: set[str] = set()
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
            self.captured |= read_inside(node)

    def result(self, node: NodeProto) -> str:
        """The value that a node gives: behind the Relu or Clip, and the positive factors, that alone read it."""
        name = str(node.output[0])
        behind = self._only_reader(name)
        if behind is not None and behind.input[0] == name and self.is_clip(behind):
            name = str(behind.output[0])
        while not self.keeps_grid(node):
            behind = self._only_reader(name)
            if behind is None or self.factor(behind) is None:
                break
            name = str(behind.output[0])
        return name

    def _only_reader(self, name: str) -> NodeProto | None:
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs | self.captured else None

    def keeps_grid(self, node: NodeProto) -> bool:
        """Whether the results of a node are some of its first input's values."""
        between = node.op_type == "Resize" and any(a.name == "mode" and a.s != b"nearest" for a in node.attribute)
        return node.op_type in KEEP_GRID and not domain_of(node) and not between

    def averages(self, node: NodeProto) -> bool:
        """Whether a node is a convolution with constant codes: a mean over windows."""
        weight = self.maker.get(node.input[1]) if node.op_type == "Conv" and len(node.input) == 2 else None
        return weight is not None and weight.op_type == "DequantizeLinear" and weight.input[0] in self.constants

    def factor(self, node: NodeProto) -> float | None:
        """The positive constant that a node multiplies a value with: that is another scale of its codes."""
        if node.op_type not in ("Mul", "Div") or domain_of(node) or len(node.input) != 2:
            return None
        value = next((self.scalars[name] for name in reversed(node.input) if name in self.scalars), 0.0)
        if not 0 < value < float("inf") or self.operand(node) in self.constants:
            return None
        if node.op_type == "Div":
            return None if node.input[1] not in self.scalars else 1 / value
        return value

    def operand(self, node: NodeProto) -> str:
        """The input of a product or sum that is no scalar constant."""
        return next((str(name) for name in node.input if name not in self.scalars), str(node.input[0]))

    def floor(self, name: str) -> float | None:
        """Where the only readers are those of a hard-swish or SiLU: the value below which they give 0, or nearly."""
        readers = self.readers.get(name, [])
        if len(readers) != 2 or name in self.outputs | self.captured:
            return None
        gate = next((node for node in readers if node.op_type in ("Add", "Sigmoid")), None)
        product = next((node for node in readers if node.op_type == "Mul"), None)
        if gate is None or product is None or self.result(gate) not in product.input:
            return None
        if gate.op_type == "Sigmoid":
            return _SILU_FLOOR
        clip = next((node for node in self.readers.get(gate.output[0], []) if self.is_clip(node)), None)
        zero = clip is not None and (clip.op_type == "Relu" or self.scalars.get(clip.input[1], 1.0) == 0)
        added = next((self.scalars[one] for one in gate.input if one in self.scalars), 0.0)
        return -added if zero and added > 0 else None

    def is_clip(self, node: NodeProto) -> bool:
        """Whether a node is a Relu, or a Clip between constants."""
        known = all(not name or name in self.constants for name in node.input[1:])
        return node.op_type in _CLIPS and not domain_of(node) and known
