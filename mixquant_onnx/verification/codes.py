"""The codes of a written model, decoded as a runtime would: they must be exactly what was meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from mixquant_onnx.errors import ProofError
from mixquant_onnx.model.dtypes import numpy_type
from mixquant_onnx.model.scopes import Scope, walk
from mixquant_onnx.model.weights import LocatedSite
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.scheme import Quantized, dequantized
from mixquant_onnx.runtime.session import RuntimeFailure, Session

_AT_ONCE = 32_000_000


def _producers(scope: Scope) -> dict[str, NodeProto]:
    return {output: node for node in scope.body.node for output in node.output}


def _decoder_model(model: ModelProto, scope: Scope, names: Sequence[str]) -> ModelProto:
    """The nodes and tensors that compute `names` (in `scope`) from nothing, as a model that outputs them."""
    producers = _producers(scope)
    stored: dict[str, TensorProto] = {}
    if isinstance(scope.body, GraphProto):
        stored = {tensor.name: tensor for tensor in scope.body.initializer}
    wanted, nodes, tensors, seen = list(names), [], [], set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in stored:
            tensors.append(stored[name])
        elif name in producers:
            nodes.append(producers[name])
            wanted.extend(producers[name].input)
    order = {id(node): position for position, node in enumerate(scope.body.node)}
    position_of = {output: order.get(id(node), 0) for output, node in producers.items()}
    nodes.sort(key=lambda node: position_of[node.output[0]])
    outputs = []
    for name in names:
        nodes.append(helper.make_node("Cast", [name], [f"{name}.as_float32"], to=TensorProto.FLOAT))
        outputs.append(helper.make_tensor_value_info(f"{name}.as_float32", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "decoder", [], outputs, tensors)
    small = helper.make_model(graph, functions=list(model.functions), ir_version=model.ir_version)
    del small.opset_import[:]
    small.opset_import.extend(model.opset_import)
    return small


def decode_with_runtime(model: ModelProto, scope: Scope, names: Sequence[str]) -> list[FloatArray]:
    """What ONNX Runtime makes of the stored codes behind `names`, as float32. Raises RuntimeFailure."""
    return list(Session(_decoder_model(model, scope, names)).run({}))


def check_codes(
    model: ModelProto,
    outputs: Mapping[str, tuple[str, str]],
    quantized: Mapping[str, Quantized],
    transposed: frozenset[str] = frozenset(),
) -> None:
    """Raises ProofError for the first site whose stored tensor is not exactly its dequantized codes.

    `outputs`: for each site the path of its scope and the name of the value. Raises RuntimeFailure where this
    machine has no kernel for the type.
    """
    scopes = {scope.path: scope for scope in walk(model)}
    batch: list[str] = []
    size = 0
    for name in outputs:
        if batch and (size > _AT_ONCE or outputs[name][0] != outputs[batch[0]][0]):
            _check_batch(model, scopes[outputs[batch[0]][0]], batch, outputs, quantized, transposed)
            batch, size = [], 0
        batch.append(name)
        size += quantized[name].codes.size
    if batch:
        _check_batch(model, scopes[outputs[batch[0]][0]], batch, outputs, quantized, transposed)


def _check_batch(
    model: ModelProto,
    scope: Scope,
    batch: Sequence[str],
    outputs: Mapping[str, tuple[str, str]],
    quantized: Mapping[str, Quantized],
    transposed: frozenset[str],
) -> None:
    got = decode_with_runtime(model, scope, [outputs[name][1] for name in batch])
    for name, value in zip(batch, got, strict=True):
        q = quantized[name]
        want = dequantized(q, numpy_type(q.dtype)).astype(np.float32)
        if not np.array_equal(value, want.T if name in transposed else want):
            raise ProofError(f"proof failed at '{name}' ({q.scheme}): its stored codes do not decode to its weights")


def prove_codes(
    saved: ModelProto,
    sites: Mapping[str, LocatedSite],
    quantized: Mapping[str, Quantized],
    values: Mapping[str, str],
    transposed: frozenset[str] = frozenset(),
) -> str:
    """Decode every stored tensor; who did it. `values`: the name that holds each site's weight.
    `transposed`: the sites that are stored with their axes swapped.

    Raises ProofError. NumPy decodes where ONNX Runtime has no kernel for a type.
    """
    outputs = {name: (sites[name].site.scope, values[name]) for name in quantized}
    try:
        check_codes(saved, outputs, quantized, transposed)
    except RuntimeFailure:
        decode_in_numpy(saved, outputs, quantized, transposed)
        return "NumPy"
    return "ONNX Runtime"


def decode_in_numpy(
    saved: ModelProto,
    outputs: Mapping[str, tuple[str, str]],
    quantized: Mapping[str, Quantized],
    transposed: frozenset[str] = frozenset(),
) -> None:
    """`check_codes` through onnx's reference implementation, which has every type. Raises ProofError."""
    from onnx.reference import ReferenceEvaluator

    scopes = {scope.path: scope for scope in walk(saved)}
    for name, (path, value) in outputs.items():
        model = _decoder_model(saved, scopes[path], [value])
        got = cast(list[FloatArray], ReferenceEvaluator(model).run(None, {}))[0]
        q = quantized[name]
        want = dequantized(q, numpy_type(q.dtype)).astype(np.float32)
        if not np.array_equal(got, want.T if name in transposed else want):
            raise ProofError(f"proof failed at '{name}' ({q.scheme}): its stored codes do not decode to its weights")
