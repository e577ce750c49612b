"""Put encoded weights into a model. The only file that changes a graph (with `opset`, which it calls)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import onnx
from onnx import FunctionProto, ModelProto, NodeProto, helper

from mixquant_onnx.config.stages import FormOptions
from mixquant_onnx.errors import ModelError
from mixquant_onnx.export.encodings import decoder_functions as functions
from mixquant_onnx.export.file_sizes import FileSizes
from mixquant_onnx.export.opset import CannotConvert, opset_of, raise_opset
from mixquant_onnx.export.pieces import BROADCASTING_FROM, KERNELS_FROM_OPSET, encode
from mixquant_onnx.export.place import Replacement, put_in_place
from mixquant_onnx.model.scopes import Scope, fresh_names
from mixquant_onnx.model.weights import LocatedSite, Reader, find
from mixquant_onnx.numerics.scheme import Quantized

FUNCTIONS_FROM_IR = 8
FOUR_BITS_FROM_IR = 10
INPUTS_ARE_FREE_FROM_IR = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewritten:
    """What was done: for each site its bytes, its form and the name of the value that holds the weight;
    the sites stored with their axes swapped;
    opset before and after; remarks for the user."""

    nbytes: Mapping[str, int]
    forms: Mapping[str, str]
    values: Mapping[str, str]
    transposed: frozenset[str]
    opset: tuple[int, int]
    notes: tuple[str, ...]


def unchanged(model: ModelProto) -> Rewritten:
    """That nothing was done to `model`."""
    opset = opset_of(model)
    return Rewritten(nbytes={}, forms={}, values={}, transposed=frozenset(), opset=(opset, opset), notes=())


def rewrite(
    model: ModelProto,
    quantized: Mapping[str, Quantized],
    options: FormOptions,
    min_size: int,
    folded: Collection[str] = (),
) -> Rewritten:
    """Replace each weight in `quantized` (by site name) in place. `min_size` as it was when they were found.

    `folded`: sites that take the folded form whatever their size.
    """
    fresh = fresh_names(model)
    notes: list[str] = []
    before = opset_of(model)
    schemes = {name: q.scheme for name, q in quantized.items()}
    sizes = FileSizes(model, find(model, min_size).sites, options, folded=folded)
    kernels = {name: sizes.kernel(name, scheme) for name, scheme in schemes.items()}
    forms_of = {name: sizes.form_options(name, scheme) for name, scheme in schemes.items()}
    _raise(model, sizes.opsets(schemes), fresh, notes)
    opset = opset_of(model)
    if quantized and opset < BROADCASTING_FROM:
        raise ModelError(f"opset {before} is older than ONNX Runtime runs, and cannot be converted ({notes[-1]})")
    sites = find(model, min_size).sites
    nbytes: dict[str, int] = {}
    forms: dict[str, str] = {}
    values: dict[str, str] = {}
    domains: list[Scope] = []
    replaced: list[Replacement] = []
    for name, q in quantized.items():
        located = sites[name]
        kernel = kernels[name] if opset >= KERNELS_FROM_OPSET else None
        encoded, forms[name] = encode(located, q, kernel, forms_of[name], opset, fresh)
        if forms[name].startswith("MatMulNBits"):
            _gemms_to_matmuls(located, encoded.nodes[-1].output[0], fresh)
        for function in encoded.functions:
            _add_function(model, function, encoded.nodes)
        replaced.append(Replacement(source=located.source, encoded=encoded))
        nbytes[name], values[name] = encoded.nbytes, encoded.nodes[-1].output[0]
        if encoded.functions:
            domains.append(located.source.scope)
    put_in_place(replaced)
    if domains:
        _import_domain(model, domains)
    _raise_ir(model, bool(domains), notes)
    return Rewritten(
        nbytes=nbytes,
        forms=forms,
        values=values,
        transposed=_transposed(sites, values),
        opset=(before, opset),
        notes=tuple(notes),
    )


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


def _transposed(sites: Mapping[str, LocatedSite], values: Mapping[str, str]) -> frozenset[str]:
    """Weights that come out under another name than they had: [K, N] for a Gemm that read [N, K]."""
    return frozenset(name for name, value in values.items() if value != sites[name].source.name)


def _raise(model: ModelProto, wanted: list[int], fresh: Callable[[str], str], notes: list[str]) -> None:
    for target in wanted:
        if opset_of(model) >= target:
            return
        try:
            raise_opset(model, target, fresh)
        except CannotConvert as reason:
            notes.append(f"opset {opset_of(model)} kept instead of {target}: {reason}")
            continue
        return


def _gemms_to_matmuls(located: LocatedSite, weight: str, fresh: Callable[[str], str]) -> None:
    for reader in located.readers:
        if reader.node.op_type == "Gemm":
            _gemm_to_matmul(reader, weight, fresh)


def _gemm_to_matmul(reader: Reader, weight: str, fresh: Callable[[str], str]) -> None:
    """Gemm(x, w, c) as MatMul(x, weight) + c; the output keeps its name, the MatMul the node's."""
    node, body = reader.node, reader.scope.body
    data, bias, output = node.input[0], node.input[2] if len(node.input) > 2 else "", node.output[0]
    node.op_type = "MatMul"
    del node.attribute[:]
    del node.input[:]
    node.input.extend([data, weight])
    if bias:
        node.output[0] = fresh(f"{output}.product")
        position = next(i for i, n in enumerate(body.node) if n.output[:] == node.output[:])
        add = helper.make_node("Add", [node.output[0], bias], [output], name=fresh(f"{output}.bias"))
        body.node.insert(position + 1, add)


def _import_domain(model: ModelProto, scopes: list[Scope]) -> None:
    bodies: list[ModelProto | FunctionProto] = [model]
    for scope in scopes:
        while scope.parent is not None:
            scope = scope.parent
        if isinstance(scope.body, FunctionProto) and not any(scope.body is b for b in bodies):
            bodies.append(scope.body)
    for body in bodies:
        if not any(o.domain == functions.DOMAIN for o in body.opset_import):
            body.opset_import.append(helper.make_opsetid(functions.DOMAIN, functions.DOMAIN_VERSION))


def _raise_ir(model: ModelProto, with_functions: bool, notes: list[str]) -> None:
    needed = FUNCTIONS_FROM_IR if with_functions else 0
    if opset_of(model) >= 21:
        needed = FOUR_BITS_FROM_IR
    needed = max(needed, onnx.helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True))
    before = model.ir_version
    if before >= needed:
        return
    model.ir_version = needed
    if before < INPUTS_ARE_FREE_FROM_IR:
        _drop_inputs_of_initializers(model)
        notes.append(f"IR version {before} raised to {needed}: initializers are no longer listed as inputs")


def _drop_inputs_of_initializers(model: ModelProto) -> None:
    """In IR 3 every initializer is listed as an input; from IR 4 on that would let the caller replace it."""
    stored = {tensor.name for tensor in model.graph.initializer}
    computed = {name for node in model.graph.node for name in node.output}
    kept = [value for value in model.graph.input if value.name not in stored | computed]
    del model.graph.input[:]
    model.graph.input.extend(kept)
