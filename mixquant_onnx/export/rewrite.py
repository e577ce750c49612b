"""Put encoded weights into a model. The only file that changes a graph (with `opset`, which it calls)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, helper

from mixquant_onnx.config.stages import FormOptions
from mixquant_onnx.errors import ModelError
from mixquant_onnx.export.encode import encode
from mixquant_onnx.export.encodings import decoder_functions as functions
from mixquant_onnx.export.encodings.builder import Encoded, FreshName
from mixquant_onnx.export.encodings.int8_kernel import Int8Kernel
from mixquant_onnx.export.encodings.lstm_kernel import LstmKernel
from mixquant_onnx.export.encodings.packed_kernel import PackedKernel
from mixquant_onnx.export.encodings.storage import BROADCASTING_FROM_OPSET, Storage, at_opset
from mixquant_onnx.export.file_sizes import FileSizes
from mixquant_onnx.export.integer_products import keep_integer_products
from mixquant_onnx.export.ir_version import raise_ir
from mixquant_onnx.export.opset import CannotConvert, import_domain, opset_of, raise_opset
from mixquant_onnx.export.packed_operators import pack_operators
from mixquant_onnx.export.place import Replacement, put_in_place
from mixquant_onnx.export.quantized_lstm import quantize_lstms
from mixquant_onnx.model.scopes import Scope, fresh_names
from mixquant_onnx.model.scratch import Scratch
from mixquant_onnx.model.tensor_data import release
from mixquant_onnx.model.weights import LocatedWeight, Reader, located_in
from mixquant_onnx.numerics.scheme import QuantizedTensor, Scheme


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewritten:
    """What was done to a model.

    Attributes:
        nbytes: bytes of each weight: codes, scales and zero points.
        storages: how each weight is stored.
        values: name of the value that holds each weight.
        packed: by the name of the codes that a kernel reads, the name that the weight would have as a float.
        transposed: weights that are stored with their axes swapped.
        opset: before and after.
        notes: remarks for the user.
    """

    nbytes: Mapping[str, int]
    storages: Mapping[str, Storage]
    values: Mapping[str, str]
    packed: Mapping[str, str]
    transposed: frozenset[str]
    opset: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def forms(self) -> dict[str, str]:
        """The name of each weight's storage, as summaries show it."""
        return {name: storage.name for name, storage in self.storages.items()}

    @property
    def fused(self) -> dict[str, str]:
        """The value of each weight that ONNX Runtime is to fuse with what reads it."""
        unfused = {name: one for name, one in self.storages.items() if one.fused and not _is_packed(one)}
        return {name: self.values[name] for name in unfused}


def unchanged(model: ModelProto) -> Rewritten:
    """That nothing was done to `model`."""
    opset = opset_of(model)
    return Rewritten(
        nbytes={}, storages={}, values={}, packed={}, transposed=frozenset(), opset=(opset, opset), notes=()
    )


def rewrite(
    model: ModelProto,
    weights: Mapping[str, LocatedWeight],
    quantized: Mapping[str, QuantizedTensor],
    options: FormOptions,
    folded: Collection[str] = (),
    scratch: Scratch | None = None,
) -> Rewritten:
    """Replace weights of `model` in place.

    Args:
        model: the model; it is changed.
        weights: all weights by name, as located in the model that `model` is a copy of (or in itself).
        quantized: those to replace, by name.
        options: how they are written.
        folded: weights that never run on a fused kernel.
        scratch: where large tensors go; None: into the model.

    Raises:
        ModelError: the opset is older than ONNX Runtime runs, and cannot be raised.
    """
    fresh, notes, before = fresh_names(model), list[str](), opset_of(model)
    schemes = {name: q.scheme for name, q in quantized.items()}
    sizes = FileSizes(model, weights, options, folded=folded, wide=_with_wide_scales(quantized))
    possible = {name: sizes.storages(name, scheme) for name, scheme in schemes.items()}
    _raise(model, sizes.opsets(schemes), fresh, notes)
    opset = opset_of(model)
    if quantized and opset < BROADCASTING_FROM_OPSET:
        raise _too_old(before, notes)
    storages = {name: at_opset(found, opset) for name, found in possible.items()}
    sites = located_in(model, {name: weights[name] for name in quantized})
    encoded = dict[str, Encoded]()
    for name, q in quantized.items():
        made = _encode(model, sites[name], q, storages[name], opset, fresh, options.target)
        encoded[name] = made if scratch is None else _in_file(made, q, scratch)
    on_integers = [sites[name] for name, storage in storages.items() if isinstance(storage, Int8Kernel)]
    keep_integer_products(model, [reader for located in on_integers for reader in located.readers], fresh)
    _put_into(model, sites, encoded, notes)
    values = {name: made.nodes[-1].output[0] for name, made in encoded.items()}
    quantize_lstms(
        model, {values[name] for name, storage in storages.items() if isinstance(storage, LstmKernel)}, fresh
    )
    pack_operators(model)
    return Rewritten(
        nbytes={name: made.nbytes for name, made in encoded.items()},
        storages=storages,
        values=values,
        packed={made.nodes[-1].input[0]: values[name] for name, made in encoded.items() if _is_packed(storages[name])},
        transposed=_transposed(sites, values),
        opset=(before, opset),
        notes=tuple(notes),
    )


def _too_old(opset: int, notes: Sequence[str]) -> ModelError:
    why = next(reversed(notes), "no later one is known")
    return ModelError(f"opset {opset} is older than ONNX Runtime runs, and cannot be converted ({why})")


def _in_file(encoded: Encoded, q: QuantizedTensor, scratch: Scratch) -> Encoded:
    """The same with large tensors in a file; the memory that codes take is freed."""
    release(q.codes)
    return replace(encoded, tensors=tuple(map(scratch.tensor, encoded.tensors)))


def _is_packed(storage: Storage) -> bool:
    return isinstance(storage, PackedKernel)


def _with_wide_scales(quantized: Mapping[str, QuantizedTensor]) -> set[tuple[str, Scheme]]:
    return {(name, q.scheme) for name, q in quantized.items() if q.scale.dtype == np.float32}


def _put_into(
    model: ModelProto, sites: Mapping[str, LocatedWeight], encoded: Mapping[str, Encoded], notes: list[str]
) -> None:
    """Put encoded weights in place, import the domain of their functions, and raise the IR version."""
    put_in_place([Replacement(source=sites[name].source, encoded=made) for name, made in encoded.items()])
    calling = [sites[name].source.scope for name, made in encoded.items() if made.functions]
    if calling:
        _import_domain(model, calling)
    notes += raise_ir(model, with_functions=bool(calling))


def _encode(
    model: ModelProto,
    located: LocatedWeight,
    q: QuantizedTensor,
    storage: Storage,
    opset: int,
    fresh: FreshName,
    target: str,
) -> Encoded:
    """One weight, not yet put in place; its functions are put into `model`, and its Gemms made MatMuls."""
    encoded = encode(located, q, storage, opset, fresh, target)
    if storage.fused:
        adds = "Sum" if isinstance(storage, Int8Kernel) else "Add"
        _gemms_to_matmuls(located, encoded.nodes[-1].output[0], adds, fresh)
    for function in encoded.functions:
        _add_function(model, function, encoded.nodes)
    return encoded


def _add_function(model: ModelProto, function: FunctionProto, nodes: tuple[NodeProto, ...]) -> None:
    """Put `function` into `model` once; under another name where a different one has its name already."""
    calls = [node for node in nodes if (node.domain, node.op_type) == (function.domain, function.name)]
    stem, count = function.name, 1
    known = {f.name: f for f in model.functions if f.domain == function.domain}
    own = FunctionProto()
    own.CopyFrom(function)
    while own.name in known and known[own.name] != own:
        count += 1
        own.name = f"{stem}_{count}"
    for node in calls:
        node.op_type = own.name
    if own.name not in known:
        model.functions.append(own)


def _transposed(sites: Mapping[str, LocatedWeight], values: Mapping[str, str]) -> frozenset[str]:
    """Weights that come out under another name than they had: [K, N] for a Gemm that read [N, K]."""
    return frozenset(name for name, value in values.items() if value != sites[name].source.name)


def _raise(model: ModelProto, wanted: list[int], fresh: FreshName, notes: list[str]) -> None:
    """Raise the opset to the first of `wanted` that `model` can be converted to; `notes` say why not to others."""
    for target in wanted:
        if opset_of(model) >= target:
            return
        try:
            raise_opset(model, target, fresh)
        except CannotConvert as reason:
            notes.append(f"opset {opset_of(model)} kept instead of {target}: {reason}")
            continue
        return


def _gemms_to_matmuls(located: LocatedWeight, weight: str, adds: str, fresh: FreshName) -> None:
    for reader in located.readers:
        if reader.node.op_type == "Gemm":
            _gemm_to_matmul(reader, weight, adds, fresh)


def _gemm_to_matmul(reader: Reader, weight: str, adds: str, fresh: FreshName) -> None:
    """Gemm(x, w, c) as MatMul(x, weight) + c; the output keeps its name, the MatMul the node's.

    ONNX Runtime makes a Gemm of MatMul and Add before it looks for integer kernels, but not of MatMul and Sum.
    """
    node, body = reader.node, reader.scope.body
    data, bias, output = node.input[0], node.input[2] if len(node.input) > 2 else "", node.output[0]
    node.op_type = "MatMul"
    del node.attribute[:]
    del node.input[:]
    node.input.extend([data, weight])
    if bias:
        node.output[0] = fresh(f"{output}.product")
        position = next(i for i, n in enumerate(body.node) if n.output[:] == node.output[:])
        add = helper.make_node(adds, [node.output[0], bias], [output], name=fresh(f"{output}.bias"))
        body.node.insert(position + 1, add)


def _import_domain(model: ModelProto, scopes: list[Scope]) -> None:
    """Import the domain of the functions in the model, and in each function that holds one of `scopes`."""
    bodies: list[ModelProto | FunctionProto] = [model]
    for scope in scopes:
        while scope.parent is not None:
            scope = scope.parent
        if isinstance(scope.body, FunctionProto) and not any(scope.body is b for b in bodies):
            bodies.append(scope.body)
    for body in bodies:
        import_domain(body, functions.DOMAIN, functions.DOMAIN_VERSION)
