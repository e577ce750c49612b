"""The stored codes of a written model, decoded by a runtime: they must give exactly the dequantized weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from mixquant_onnx.errors import ProofError
from mixquant_onnx.model.dtypes import numpy_type
from mixquant_onnx.model.scopes import Scope, walk
from mixquant_onnx.model.tensor_data import release
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.runtime.session import RuntimeFailure, Session

_AT_ONCE = 32_000_000
"""Weights decoded by one session: 128 MB in float32. More sessions would be slower, larger ones take more memory."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Stored:
    """One weight of the written model: the graph or function that holds it, and the value there that is it."""

    name: str
    scope: Scope
    value: str
    quantized: QuantizedTensor
    transposed: bool

    @property
    def expected(self) -> FloatArray:
        """What the value must decode to, in float32."""
        weight = self.quantized.dequantize(numpy_type(self.quantized.dtype)).astype(np.float32)
        return weight.T if self.transposed else weight


def verify_codes(
    saved: ModelProto,
    sites: Mapping[str, LocatedWeight],
    quantized: Mapping[str, QuantizedTensor],
    values: Mapping[str, str],
    transposed: frozenset[str] = frozenset(),
) -> str:
    """Decode every stored weight and compare it with its dequantized codes, bit by bit.

    Args:
        saved: The written model.
        sites: Weights of the float model, by name.
        quantized: The quantized weights, by name.
        values: For each of them, the name of the value in `saved` that is the weight.
        transposed: Names of the weights that are stored with their axes exchanged.

    Returns:
        The decoder: "ONNX Runtime", or "NumPy" where ONNX Runtime has no kernel for a type on this machine.

    Raises:
        ProofError: A stored weight differs; the message names the first one.
    """
    scopes = {scope.path: scope for scope in walk(saved)}
    stored = [
        _Stored(name=n, scope=scopes[sites[n].site.scope], value=values[n], quantized=q, transposed=n in transposed)
        for n, q in quantized.items()
    ]
    try:
        for batch in _batches(stored):
            _compare(batch, decode_with_runtime(saved, batch[0].scope, [one.value for one in batch]))
            for one in batch:
                release(one.quantized.codes)
    except RuntimeFailure:
        for one in stored:
            _compare([one], decode_with_numpy(saved, one.scope, [one.value]))
        return "NumPy"
    return "ONNX Runtime"


def decode_with_runtime(model: ModelProto, scope: Scope, names: Sequence[str]) -> list[FloatArray]:
    """Values inside a model, computed by ONNX Runtime.

    Args:
        model: The model.
        scope: The graph or function of the values.
        names: Their names; they must not depend on inputs.

    Returns:
        The values as float32.

    Raises:
        RuntimeFailure: ONNX Runtime does not run this part.
    """
    return list(Session(_decoder_model(model, scope, names)).run({}))


def decode_with_numpy(model: ModelProto, scope: Scope, names: Sequence[str]) -> list[FloatArray]:
    """Values inside a model, computed by onnx's reference implementation, which supports every type.

    Args:
        model: The model.
        scope: The graph or function of the values.
        names: Their names; they must not depend on inputs.

    Returns:
        The values as float32.
    """
    from onnx.reference import ReferenceEvaluator

    return cast(list[FloatArray], ReferenceEvaluator(_decoder_model(model, scope, names)).run(None, {}))


def _batches(stored: Sequence[_Stored]) -> Iterator[list[_Stored]]:
    """Neighbours of one scope, up to `_AT_ONCE` weights and one more."""
    batch: list[_Stored] = []
    size = 0
    for one in stored:
        if batch and (size > _AT_ONCE or one.scope.path != batch[0].scope.path):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += one.quantized.codes.size
    if batch:
        yield batch


def _compare(batch: Sequence[_Stored], decoded: Sequence[FloatArray]) -> None:
    """Raise ProofError for the first weight that decodes to other values."""
    for one, value in zip(batch, decoded, strict=True):
        if not np.array_equal(value, one.expected):
            raise ProofError(
                f"verification failed at '{one.name}' ({one.quantized.scheme}): its stored codes do not "
                f"decode to its weights"
            )


def _decoder_model(model: ModelProto, scope: Scope, names: Sequence[str]) -> ModelProto:
    """A model without inputs that outputs the values `names` of `scope` as float32."""
    nodes, tensors = needed(scope, names)
    outputs = []
    for name in names:
        nodes.append(helper.make_node("Cast", [name], [f"{name}.as_float32"], to=TensorProto.FLOAT))
        outputs.append(helper.make_tensor_value_info(f"{name}.as_float32", TensorProto.FLOAT, None))
    return model_like(model, helper.make_graph(nodes, "decoder", [], outputs, tensors))


def model_like(model: ModelProto, graph: GraphProto) -> ModelProto:
    """A model of another graph, with the opsets, the functions and the IR version of `model`."""
    return helper.make_model(
        graph, functions=model.functions, opset_imports=model.opset_import, ir_version=model.ir_version
    )


def needed(scope: Scope, names: Sequence[str]) -> tuple[list[NodeProto], list[TensorProto]]:
    """The nodes and tensors of `scope` that `names` are computed from, nodes in their order there."""
    order = {output: position for position, node in enumerate(scope.body.node) for output in node.output}
    stored = {t.name: t for t in scope.body.initializer} if isinstance(scope.body, GraphProto) else {}
    wanted, seen = list(names), set[str]()
    positions, tensors = set[int](), []
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in stored:
            tensors.append(stored[name])
        elif name in order:
            positions.add(order[name])
            wanted.extend(scope.body.node[order[name]].input)
    return [scope.body.node[position] for position in sorted(positions)], tensors
