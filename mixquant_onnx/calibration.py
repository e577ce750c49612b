"""One streaming pass over feeds: mean and variance of what enters each weight's operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mixquant_onnx.feeds import Data
from mixquant_onnx.graph.operators import attributes
from mixquant_onnx.graph.opset import opset_of
from mixquant_onnx.graph.sites import LocatedSite
from mixquant_onnx.rounding import Moments
from mixquant_onnx.runtime import RuntimeFailure, Session

_CONVOLUTIONS = ("Conv", "FusedConv")
_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Probe:
    """Where the features of an input are: its name, and whether they are axis 1 (Conv) or the last."""

    value: str
    channels_first: bool


def _probe(located: LocatedSite) -> tuple[_Probe, NodeProto] | None:
    """What to watch for a weight that one node of the main graph reads directly as its second input."""
    if len(located.readers) != 1 or located.source.scope.path:
        return None
    reader = located.readers[0]
    if reader.index != 1 or reader.steps or reader.scope.path or reader.scope.in_function:
        return None
    if reader.node.op_type in _CONVOLUTIONS:
        return _Probe(value=reader.node.input[0], channels_first=True), reader.node
    if reader.node.op_type not in _PRODUCTS or len(located.site.shape) != 2:
        return None
    if attributes(reader.node).get("transA", 0):
        return None
    return _Probe(value=reader.node.input[0], channels_first=False), reader.node


def _watch(model: ModelProto, probes: list[_Probe]) -> tuple[ModelProto, list[str]]:
    """`model` with mean and mean square of each probed value as its only outputs."""
    watched = ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    names: list[str] = []
    for position, probe in enumerate(probes):
        stem = f"mixquant.watch.{position}"
        shape = [0, 0, -1] if probe.channels_first else [0, -1]
        axes = [0, 2] if probe.channels_first else [0]
        nodes = _reduction(stem, probe.value, shape, axes, opset_of(model), watched)
        watched.graph.node.extend(nodes)
        for name in (f"{stem}.mean", f"{stem}.square"):
            watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
            names.append(name)
    return watched, names


def _reduction(
    stem: str, value: str, shape: list[int], axes: list[int], opset: int, model: ModelProto
) -> list[NodeProto]:
    nodes = [helper.make_node("Cast", [value], [f"{stem}.float"], to=TensorProto.FLOAT)]
    flat = f"{stem}.float"
    if len(shape) == 3:
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), f"{stem}.shape"))
        nodes.append(helper.make_node("Reshape", [flat, f"{stem}.shape"], [f"{stem}.flat"]))
        flat = f"{stem}.flat"
    nodes.append(helper.make_node("Mul", [flat, flat], [f"{stem}.squares"]))
    for source, result in ((flat, "mean"), (f"{stem}.squares", "square")):
        if opset >= 18:
            axes_name = f"{stem}.{result}.axes"
            model.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), axes_name))
            nodes.append(helper.make_node("ReduceMean", [source, axes_name], [f"{stem}.{result}"], keepdims=0))
        else:
            nodes.append(helper.make_node("ReduceMean", [source], [f"{stem}.{result}"], axes=axes, keepdims=0))
    return nodes


def input_moments(model: ModelProto, sites: Mapping[str, LocatedSite], data: Data) -> dict[str, Moments]:
    """Moments for the sites whose input can be watched, over `data`; none where the model does not run."""
    found: dict[str, tuple[_Probe, NodeProto]] = {}
    for name, located in sites.items():
        probed = _probe(located)
        if probed is not None:
            found[name] = probed
    probes = list(dict.fromkeys(probe for probe, _ in found.values()))
    if not probes:
        return {}
    watched, names = _watch(model, probes)
    try:
        session = Session(watched)
        runs = [session.run(feed, names) for feed in data.feeds]
    except RuntimeFailure:
        return {}
    average = [np.mean([run[k] for run in runs], axis=0, dtype=np.float64) for k in range(len(names))]
    moments = {}
    for name, (probe, node) in found.items():
        k = 2 * probes.index(probe)
        one = _for_rows(sites[name], node, probe, np.asarray(average[k]), np.asarray(average[k + 1]))
        if one is not None:
            moments[name] = one
    return moments


def _for_rows(
    located: LocatedSite,
    node: NodeProto,
    probe: _Probe,
    mean: NDArray[np.float64],
    square: NDArray[np.float64],
) -> Moments | None:
    """Moments in the order of the rows of the weight."""
    mean, square = mean.reshape(-1, mean.shape[-1]).mean(0), square.reshape(-1, square.shape[-1]).mean(0)
    variance = np.maximum(square - mean**2, 1e-12)
    shape = located.site.shape
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        return None
    if not probe.channels_first:
        k = shape[1] if located.site.layout.p == 1 else shape[0]
        if mean.size != k:
            return None
        return Moments(mean=mean.astype(np.float32), variance=variance.astype(np.float32))
    group = int(attributes(node).get("group", 1))
    outputs, inputs, window = shape[0], shape[1], int(np.prod(shape[2:]))
    if mean.size != group * inputs:
        return None
    both = [
        np.repeat(np.repeat(v.reshape(group, inputs), outputs // group, axis=0), window, axis=1).astype(np.float32)
        for v in (mean, variance)
    ]
    return Moments(mean=both[0], variance=both[1])
