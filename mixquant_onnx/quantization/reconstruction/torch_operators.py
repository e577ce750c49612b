"""ONNX operators as differentiable torch functions: (attributes, inputs) -> output or outputs.

The row in `model/operators.py` names the function of an operator; this module has those that torch does not provide
under that name. It exists because the converters on PyPI (onnx2pytorch 0.6, onnx2torch 1.5) do not import without
torchvision, and store weights as parameters of modules; here they are tensors that the caller computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from onnx import NodeProto
from torch import Tensor

from mixquant_onnx.model.operators import attributes, operator_of
from mixquant_onnx.model.padding import window_padding
from mixquant_onnx.model.tensor_data import values_of
from mixquant_onnx.quantization.reconstruction.supported import is_known

At = Mapping[str, Any]
Function = Callable[[At, Sequence[Any]], Any]
"""(attributes of the node, inputs) -> output, or list of outputs."""

_TYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64}


class UnknownOperator(Exception):
    """An operator, or a form of one, that is not supported."""


def _pads(at: At, x: Tensor, kernel: Sequence[int], value: float = 0.0) -> Tensor:
    """`x` with the padding of a sliding window applied (ONNX pads and auto_pad)."""
    before, after = window_padding(at, list(x.shape[2:]), kernel)
    if not any((*before, *after)):
        return x
    return F.pad(x, [p for k in reversed(range(len(kernel))) for p in (before[k], after[k])], value=value)


def _conv(at: At, inputs: Sequence[Any]) -> Tensor:
    x, weight = inputs[0], inputs[1]
    rank = weight.ndim - 2
    run = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    pads = [int(v) for v in at.get("pads", [0] * (2 * rank))]
    even = pads[:rank] == pads[rank:] and at.get("auto_pad", b"NOTSET") in (b"NOTSET", "NOTSET")
    padded = x if even else _pads(at, x, weight.shape[2:])
    bias = inputs[2] if len(inputs) > 2 else None
    strides, dilations = list(at.get("strides", [1] * rank)), list(at.get("dilations", [1] * rank))
    found: Tensor = run(padded, weight, bias, strides, pads[:rank] if even else 0, dilations, int(at.get("group", 1)))
    return found


def _gemm(at: At, inputs: Sequence[Any]) -> Tensor:
    a, b = inputs[0], inputs[1]
    product = (a.T if at.get("transA") else a) @ (b.T if at.get("transB") else b) * at.get("alpha", 1.0)
    if len(inputs) > 2 and inputs[2] is not None:
        product = product + at.get("beta", 1.0) * inputs[2]
    found: Tensor = product
    return found


def _clip(at: At, inputs: Sequence[Any]) -> Tensor:
    low = inputs[1] if len(inputs) > 1 and inputs[1] is not None else at.get("min", -math.inf)
    high = inputs[2] if len(inputs) > 2 and inputs[2] is not None else at.get("max", math.inf)
    return torch.clamp(inputs[0], *(v.item() if isinstance(v, Tensor) else v for v in (low, high)))


def _axes(at: At, inputs: Sequence[Any], position: int = 1) -> list[int] | None:
    if len(inputs) > position and inputs[position] is not None:
        return [int(v) for v in inputs[position].reshape(-1)]
    return [int(v) for v in at["axes"]] if "axes" in at else None


def _reduce(kind: str) -> Function:
    def run(at: At, inputs: Sequence[Any]) -> Any:
        x = inputs[0]
        axes = _axes(at, inputs)
        if axes is None:
            axes = [] if at.get("noop_with_empty_axes") else list(range(x.ndim))
        keep = bool(at.get("keepdims", 1))
        return getattr(torch, kind)(x, axes, keep) if axes else x

    return run


def _reshape(at: At, inputs: Sequence[Any]) -> Tensor:
    x: Tensor = inputs[0]
    shape = [int(v) for v in inputs[1]]
    return x.reshape([x.shape[k] if v == 0 and not at.get("allowzero") else v for k, v in enumerate(shape)])


def _layer_norm(at: At, inputs: Sequence[Any]) -> Tensor:
    axis = int(at.get("axis", -1)) % inputs[0].ndim
    bias = inputs[2] if len(inputs) > 2 else None
    return F.layer_norm(inputs[0], inputs[0].shape[axis:], inputs[1], bias, at.get("epsilon", 1e-5))


def _batch_norm(at: At, inputs: Sequence[Any]) -> Tensor:
    x, scale, bias, mean, variance = inputs
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, at.get("epsilon", 1e-5))


def _pool(kind: str) -> Function:
    def run(at: At, inputs: Sequence[Any]) -> Any:
        kernel = [int(v) for v in at["kernel_shape"]]
        rank = len(kernel)
        padded_out = kind == "avg" and any(at.get("pads", [])) and not at.get("count_include_pad", 0)
        if at.get("ceil_mode", 0) or padded_out or any(v != 1 for v in at.get("dilations", [])):
            raise UnknownOperator(f"{kind} pool with ceil_mode, dilations or uncounted pads")
        x = _pads(at, inputs[0], kernel, -math.inf if kind == "max" else 0.0)
        return getattr(F, f"{kind}_pool{rank}d")(x, kernel, list(at.get("strides", [1] * rank)))

    return run


def _split(at: At, inputs: Sequence[Any]) -> list[Tensor]:
    x, axis = inputs[0], int(at.get("axis", 0))
    sizes = _axes({"axes": at["split"]} if "split" in at else {}, inputs)
    if sizes is None:
        raise UnknownOperator("Split without sizes")
    return list(torch.split(x, sizes, axis))


def _pad(at: At, inputs: Sequence[Any]) -> Tensor:
    mode = at.get("mode", b"constant")
    pads = at["pads"] if "pads" in at else inputs[1].tolist()
    if mode not in (b"constant", "constant") or (len(inputs) > 3 and inputs[3] is not None):
        raise UnknownOperator("Pad with a mode or axes")
    value = float(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else float(at.get("value", 0.0))
    rank = inputs[0].ndim
    return F.pad(inputs[0], [int(p) for k in reversed(range(rank)) for p in (pads[k], pads[rank + k])], value=value)


def _slice(at: At, inputs: Sequence[Any]) -> Tensor:
    if "starts" in at:
        starts, ends, axes, steps = at["starts"], at["ends"], at.get("axes"), None
    else:
        starts, ends = inputs[1].tolist(), inputs[2].tolist()
        axes, steps = _axes({}, inputs, 3), _axes({}, inputs, 4)
    x: Tensor = inputs[0]
    index: list[slice] = [slice(None)] * x.ndim
    for k, (first, last) in enumerate(zip(starts, ends, strict=True)):
        step = int(steps[k]) if steps else 1
        if step < 1:
            raise UnknownOperator("Slice backwards")
        index[int(axes[k]) if axes else k] = slice(int(first), int(last), step)
    return x[tuple(index)]


def _gather(at: At, inputs: Sequence[Any]) -> Tensor:
    x, index = inputs
    axis = int(at.get("axis", 0)) % x.ndim
    index = torch.where(index < 0, index + x.shape[axis], index)
    found = torch.index_select(x, axis, index.reshape(-1))
    return found.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def _squeeze(at: At, inputs: Sequence[Any]) -> Any:
    axes = _axes(at, inputs)
    return torch.squeeze(inputs[0]) if axes is None else torch.squeeze(inputs[0], tuple(axes))


def _unsqueeze(at: At, inputs: Sequence[Any]) -> Any:
    axes = _axes(at, inputs) or []
    x = inputs[0]
    for axis in sorted(a % (x.ndim + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return x


def _constant(at: At, inputs: Sequence[Any]) -> Tensor:
    if "value" in at:
        return torch.from_numpy(values_of(at["value"]).copy())
    for name, kind in (("value_float", torch.float32), ("value_int", torch.int64), ("value_floats", torch.float32),
                       ("value_ints", torch.int64)):  # fmt: skip
        if name in at:
            return torch.tensor(at[name], dtype=kind)
    raise UnknownOperator("Constant of another kind")


def _tensors(run: Callable[..., Any]) -> Function:
    """A function of tensors alone, without attributes."""
    return lambda at, inputs: run(*inputs)


FUNCTIONS: dict[str, Function] = {
    "avg_pool": _pool("avg"),
    "batch_norm": _batch_norm,
    "cast": lambda at, i: i[0].to(_TYPES[int(at["to"])]),
    "cat": lambda at, i: torch.cat(list(i), int(at["axis"])),
    "clip": _clip,
    "constant": _constant,
    "conv": _conv,
    "expand": lambda at, i: i[0] * torch.ones([int(v) for v in i[1]], dtype=i[0].dtype),
    "flatten": lambda at, i: i[0].reshape(math.prod(i[0].shape[: int(at.get("axis", 1))]), -1),
    "gather": _gather,
    "gelu": lambda at, i: F.gelu(i[0], approximate=bytes(at.get("approximate", b"none")).decode()),
    "gemm": _gemm,
    "global_avg_pool": _tensors(lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True)),
    "hard_sigmoid": lambda at, i: torch.clamp(i[0] * at.get("alpha", 0.2) + at.get("beta", 0.5), 0, 1),
    "hard_swish": _tensors(F.hardswish),
    "identity": _tensors(lambda x: x),
    "layer_norm": _layer_norm,
    "leaky_relu": lambda at, i: F.leaky_relu(i[0], at.get("alpha", 0.01)),
    "max_pool": _pool("max"),
    "pad": _pad,
    "permute": lambda at, i: i[0].permute(*at.get("perm", range(i[0].ndim - 1, -1, -1))),
    "pow": _tensors(lambda x, y: torch.pow(x, y.to(x.dtype))),
    "reduce_max": _reduce("amax"),
    "reduce_mean": _reduce("mean"),
    "reduce_sum": _reduce("sum"),
    "reshape": _reshape,
    "shape": _tensors(lambda x: torch.tensor(x.shape)),
    "slice": _slice,
    "softmax": lambda at, i: torch.softmax(i[0], int(at.get("axis", -1))),
    "split": _split,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
}
"""By the name in the operator's row. Other names are functions of torch that take the inputs and no attributes."""


def function_of(name: str) -> Function:
    """The function for a name in an operator's row.

    Args:
        name: The name.

    Returns:
        The function, from this module or from torch.

    Raises:
        UnknownOperator: Neither has it.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    if not name or not hasattr(torch, name):
        raise UnknownOperator(f"torch function '{name}'")
    return _tensors(getattr(torch, name))


Tap = Callable[[str, Tensor], Tensor]
"""(name, value) -> the value to use instead."""


class Program:
    """A part of a graph that runs in torch.

    Args:
        nodes: Nodes in the order of the graph.

    Attributes:
        reads: Names of all inputs of the nodes.

    Raises:
        UnknownOperator: A node is not supported.
    """

    def __init__(self, nodes: Sequence[NodeProto]) -> None:
        self._nodes = list(nodes)
        unknown = [node.op_type for node in nodes if not is_known(node)]
        if unknown:
            raise UnknownOperator(f"operator {unknown[0]}")
        self._functions = [function_of(operator_of(node).torch) for node in nodes]
        self._attributes = [attributes(node) for node in nodes]
        self.reads = {name for node in nodes for name in node.input if name}

    def run(
        self, values: Mapping[str, Tensor], wanted: Sequence[str], taps: Mapping[str, Tap] | None = None
    ) -> list[Tensor]:
        """Compute values.

        Args:
            values: Inputs, stored tensors and weights by name; nodes whose outputs are given are not run.
            wanted: Names of the values to compute.
            taps: Functions called with the values of their names; what they return replaces the value.

        Returns:
            The values, in the order of `wanted`.

        Raises:
            UnknownOperator: A form of an operator is not supported.
        """
        known: dict[str, Any] = dict(values)
        for node, at, function in zip(self._nodes, self._attributes, self._functions, strict=True):
            if all(name in known for name in node.output):
                continue
            inputs = [known[name] if name else None for name in node.input]
            found = function(at, inputs)
            outputs = found if isinstance(found, list) else [found]
            for name, value in zip(node.output, outputs, strict=False):
                known[name] = taps[name](name, value) if taps and name in taps else value
        return [known[name] for name in wanted]
