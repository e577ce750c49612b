"""Fold what is affine around convolutions into their weights and biases; the outputs of the model stay the same.

A rounding between a convolution and what ONNX Runtime would fold into it keeps both apart, so that it is done before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from mixquant_onnx.model.constants import tensors_of
from mixquant_onnx.model.dependencies import reads
from mixquant_onnx.model.operators import domain_of
from mixquant_onnx.model.scopes import fresh_names, walk
from mixquant_onnx.model.tensor_data import values_of

_EPSILON = 1e-5
"""Default of BatchNormalization."""

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Affine:
    """Factor and offset of each channel, or of all."""

    factor: Values
    offset: Values


class _Folding:
    """A model in change: who reads what, and the constants that can be used."""

    def __init__(self, model: ModelProto) -> None:
        self.graph, self.fresh = model.graph, fresh_names(model)
        given = {value.name for value in model.graph.input}
        self.tensors: dict[str, TensorProto] = {
            name: tensor
            for name, tensor in tensors_of(walk(model)[0]).items()
            if name not in given and tensor.data_type == TensorProto.FLOAT
        }
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.graph.node:
            for name in reads(node):
                self.readers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in model.graph.output}
        self.maker = {name: node for node in self.graph.node for name in node.output}
        self.gone: list[NodeProto] = []

    def convolution(self, name: str) -> NodeProto | None:
        """The Conv that gives a value, where its weight and bias are constants that it alone reads."""
        node = self.maker.get(name)
        if node is None or node.op_type != "Conv" or domain_of(node):
            return None
        own = [one for one in node.input[1:] if one]
        return node if all(one in self.tensors and len(self.readers[one]) == 1 for one in own) else None

    def only_reader(self, name: str) -> NodeProto | None:
        """The one node that reads a value; None where there are more, or it is an output."""
        found = self.readers.get(name, [])
        return found[0] if len(found) == 1 and name not in self.outputs else None

    def remove(self, node: NodeProto) -> None:
        """Take a node out at the end."""
        self.gone.append(node)
        for name in reads(node):
            self.readers[name].remove(node)


def fold_convolutions(model: ModelProto) -> None:
    """Fold BatchNormalization, and products and sums with a constant for each channel, into the Conv before them.

    A sum with one constant that only convolutions without padding read is folded into their biases.

    Args:
        model: The model, of opset 9 or later; it is changed.

    Source:
        ONNX BatchNormalization-15, inference.
    """
    folding = _Folding(model)
    for node in list(folding.graph.node):
        conv = folding.convolution(node.output[0]) if node.output else None
        while conv is not None and _fold_behind(conv, folding):
            pass
    for node in list(folding.graph.node):
        _fold_before(node, folding)
    for node in folding.gone:
        folding.graph.node.remove(node)


def _fold_behind(conv: NodeProto, folding: _Folding) -> bool:
    """Fold the node behind a convolution, if it can be."""
    node = folding.only_reader(conv.output[0])
    if node is None or domain_of(node):
        return False
    weight = values_of(folding.tensors[conv.input[1]]).astype(np.float64)
    affine = _affine(node, conv.output[0], weight.shape, folding.tensors)
    if affine is None:
        return False
    along = affine.factor.reshape(-1, *([1] * (weight.ndim - 1)))
    _store(folding.tensors[conv.input[1]], weight * along)
    _add_to_bias(conv, affine.factor, affine.offset, len(weight), folding)
    folding.remove(node)
    conv.output[0] = node.output[0]
    folding.maker[conv.output[0]] = conv
    return True


def _affine(node: NodeProto, value: str, weight: tuple[int, ...], tensors: Mapping[str, TensorProto]) -> _Affine | None:
    """What a node does to each channel of its input `value`; None where that is anything else."""
    others = [name for name in node.input if name != value]
    if len(others) != len(node.input) - 1 or not all(name in tensors for name in others):
        return None
    if node.op_type == "BatchNormalization" and node.input[0] == value and len(node.output) == 1:
        return _normalization(node, tensors)
    if node.op_type not in ("Mul", "Add", "Div", "Sub") or (node.op_type in ("Div", "Sub") and node.input[0] != value):
        return None
    constant = _by_channel(values_of(tensors[others[0]]).astype(np.float64), weight)
    if constant is None or (node.op_type == "Div" and not np.all(constant)):
        return None
    one, zero = np.ones(1), np.zeros(1)
    return {
        "Mul": lambda: _Affine(factor=constant, offset=zero),
        "Div": lambda: _Affine(factor=1 / constant, offset=zero),
        "Add": lambda: _Affine(factor=one, offset=constant),
        "Sub": lambda: _Affine(factor=one, offset=-constant),
    }[node.op_type]()


def _normalization(node: NodeProto, tensors: Mapping[str, TensorProto]) -> _Affine | None:
    if any(a.name == "training_mode" and a.i for a in node.attribute):
        return None
    scale, shift, mean, variance = (
        values_of(tensors[name]).astype(np.float64) for name in node.input[1:]
    )  # fmt: skip
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), _EPSILON)
    factor = scale / np.sqrt(variance + epsilon)
    return _Affine(factor=factor, offset=shift - mean * factor)


def _by_channel(constant: Values, weight: tuple[int, ...]) -> Values | None:
    """A constant as one value, or one for each channel; None where it has another shape, or more axes."""
    if constant.ndim > len(weight):
        return None
    if constant.size == 1:
        return constant.reshape(1)
    shape = (1,) * (len(weight) - constant.ndim) + constant.shape
    return constant.reshape(-1) if shape == (1, weight[0], *([1] * (len(weight) - 2))) else None


def _fold_before(node: NodeProto, folding: _Folding) -> None:
    """Fold a sum with one constant into the biases of all that read it."""
    if node.op_type != "Add" or domain_of(node) or node.output[0] in folding.outputs:
        return
    added = next((name for name in node.input if name in folding.tensors), None)
    readers = folding.readers.get(node.output[0], [])
    convolutions = [folding.convolution(reader.output[0]) for reader in readers if reader.output]
    if added is None or not readers or len(convolutions) < len(readers):
        return
    constant = values_of(folding.tensors[added]).astype(np.float64)
    if constant.size != 1 or constant.ndim > 1 or not all(c is not None and _unpadded(c) for c in convolutions):
        return
    value = next(name for name in node.input if name != added)
    for conv in convolutions:
        assert conv is not None
        weight = values_of(folding.tensors[conv.input[1]]).astype(np.float64)
        offset = constant.reshape(1) * weight.reshape(len(weight), -1).sum(axis=1)
        _add_to_bias(conv, np.ones(1), offset, len(weight), folding)
        conv.input[0] = value
        folding.readers[value].append(conv)
    folding.remove(node)


def _unpadded(conv: NodeProto) -> bool:
    given = {a.name: a for a in conv.attribute}
    automatic = given["auto_pad"].s if "auto_pad" in given else b"NOTSET"
    return automatic in (b"NOTSET", b"VALID") and not ("pads" in given and any(given["pads"].ints))


def _add_to_bias(conv: NodeProto, factor: Values, offset: Values, channels: int, folding: _Folding) -> None:
    biased = len(conv.input) > 2 and conv.input[2]
    before = values_of(folding.tensors[conv.input[2]]) if biased else np.zeros(channels)
    after = np.broadcast_to(before * factor + offset, (channels,))
    if biased:
        _store(folding.tensors[conv.input[2]], after)
        return
    del conv.input[2:]
    conv.input.append(_new_tensor(f"{conv.output[0]}.bias", after, conv, folding))


def _new_tensor(wish: str, values: Values, reader: NodeProto, folding: _Folding) -> str:
    name = folding.fresh(wish)
    folding.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    folding.tensors[name] = folding.graph.initializer[-1]
    folding.readers[name] = [reader]
    return name


def _store(tensor: TensorProto, values: Values) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
