"""Put encoded weights into a model. The only file that changes a graph (with `opset`, which it calls)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from mixquant_onnx.encodings import functions
from mixquant_onnx.encodings.encoder import Encoded, encode_folded, encode_matmul
from mixquant_onnx.encodings.forms import FormOptions, Kernel, kernel_for, matmul_shape
from mixquant_onnx.encodings.native import encode_native, opset_for
from mixquant_onnx.errors import ModelError
from mixquant_onnx.graph.integer_kernels import cannot_be_fused, dequantized_values, meets_dequantized
from mixquant_onnx.graph.operators import attributes
from mixquant_onnx.graph.opset import CannotConvert, opset_of, raise_opset
from mixquant_onnx.graph.scopes import Scope, used_names
from mixquant_onnx.graph.sites import LocatedSite, Reader, find
from mixquant_onnx.types import Quantized

FUNCTIONS_FROM_IR = 8
FOUR_BITS_FROM_IR = 10
INPUTS_ARE_FREE_FROM_IR = 4
BROADCASTING_FROM = 7
"""The first opset with NumPy broadcasting, and the first that ONNX Runtime runs."""


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


class _Names:
    """Names that nothing in the model has yet."""

    def __init__(self, model: ModelProto) -> None:
        self.used = used_names(model)

    def fresh(self, wish: str) -> str:
        name, count = wish, 1
        while name in self.used:
            name, count = f"{wish}_{count}", count + 1
        self.used.add(name)
        return name


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
    names = _Names(model)
    notes: list[str] = []
    before = opset_of(model)
    sites = find(model, min_size).sites
    kernels = {n: kernel_for(sites[n].site, q.scheme, options) for n, q in quantized.items()}
    beside = dequantized_values(model, [sites[n].source.name for n in quantized] if options.target == "qdq" else ())
    kernels = {n: k if n not in folded and _fusable(sites[n], beside) else None for n, k in kernels.items()}
    _raise(model, _wanted_opsets(sites, quantized, kernels, options), names.fresh, notes)
    opset = opset_of(model)
    if quantized and opset < BROADCASTING_FROM:
        raise ModelError(f"opset {before} is older than ONNX Runtime runs, and cannot be converted ({notes[-1]})")
    sites = find(model, min_size).sites
    nbytes: dict[str, int] = {}
    forms: dict[str, str] = {}
    values: dict[str, str] = {}
    domains: list[Scope] = []
    for name, q in quantized.items():
        located = sites[name]
        kernel = kernels[name] if opset >= 21 else None
        form = replace(options, target="ort") if cannot_be_fused(located, q.scheme, beside) else options
        encoded, forms[name] = _encode(model, located, q, kernel, form, opset, names.fresh)
        for function in encoded.functions:
            _add_function(model, function, encoded.nodes)
        _insert(located, encoded)
        nbytes[name], values[name] = encoded.nbytes, encoded.nodes[-1].output[0]
        if encoded.functions:
            domains.append(located.source.scope)
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
    while function.name in known and known[function.name] != function:
        count += 1
        function.name = f"{stem}_{count}"
    for node in calls:
        node.op_type = function.name
    if function.name not in known:
        model.functions.append(function)


def _transposed(sites: Mapping[str, LocatedSite], values: Mapping[str, str]) -> frozenset[str]:
    """Weights that come out under another name than they had: [K, N] for a Gemm that read [N, K]."""
    return frozenset(name for name, value in values.items() if value != sites[name].source.name)


def _fusable(located: LocatedSite, dequantized: Collection[str]) -> bool:
    """Every reader is a node of the graph that holds the weight (a function's cannot be changed for one call)."""
    if located.source.scope.in_function or any(r.scope.in_function for r in located.readers):
        return False
    if any(meets_dequantized(reader, dequantized) for reader in located.readers):
        return False
    gemms = [r.node for r in located.readers if r.node.op_type == "Gemm"]
    if gemms and (len(gemms) != len(located.readers) or not all(_plain(node) for node in gemms)):
        return False
    return len({attributes(node).get("transB", 0) for node in gemms}) <= 1 and not _is_output(located)


def _is_output(located: LocatedSite) -> bool:
    body = located.source.scope.body
    return isinstance(body, GraphProto) and any(v.name == located.source.name for v in body.output)


def _plain(gemm: NodeProto) -> bool:
    at = attributes(gemm)
    return not at.get("transA", 0) and at.get("alpha", 1.0) == 1.0 and at.get("beta", 1.0) == 1.0


def _wanted_opsets(
    sites: Mapping[str, LocatedSite],
    quantized: Mapping[str, Quantized],
    kernels: Mapping[str, Kernel | None],
    options: FormOptions,
) -> list[int]:
    """Opsets to try, the best first."""
    wanted = {BROADCASTING_FROM}
    if options.small_ints and any(q.scheme.bits < 8 for q in quantized.values()):
        wanted.add(14)
    if any(kernels.values()):
        wanted.add(21)
    if options.target == "qdq":
        wanted |= {
            opset_for(sites[n].site.shape, sites[n].site.layout, q.scheme.grid, q.scheme.bits)
            for n, q in quantized.items()
        }
    return sorted(wanted, reverse=True)


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


def _encode(
    model: ModelProto,
    located: LocatedSite,
    q: Quantized,
    kernel: Kernel | None,
    options: FormOptions,
    opset: int,
    fresh: Callable[[str], str],
) -> tuple[Encoded, str]:
    name = located.source.name
    if options.target == "qdq":
        native = encode_native(q, name, opset, not _two_bits_broken(located), fresh, options.small_ints)
        if native is not None:
            return native, "DequantizeLinear"
    if kernel is None:
        return encode_folded(q, name, opset, fresh, options.small_ints), "folded"
    gemms = [r.node for r in located.readers if r.node.op_type == "Gemm"]
    transpose = bool(gemms) and bool(attributes(gemms[0]).get("transB", 0))
    output = fresh(f"{name}.transposed") if transpose else name
    encoded = encode_matmul(q, output, kernel, transpose, opset, fresh)
    for reader in located.readers:
        if reader.node.op_type == "Gemm":
            _gemm_to_matmul(reader, output, fresh)
    return encoded, f"MatMulNBits {kernel.bits}"


def _two_bits_broken(located: LocatedSite) -> bool:
    """ONNX Runtime 1.31 fuses 2-bit MatMul wrongly where N is no multiple of 4."""
    if not any(r.node.op_type in ("MatMul", "Gemm") for r in located.readers):
        return False
    return len(located.site.shape) != 2 or matmul_shape(located.site)[1] % 4 != 0


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


def _insert(located: LocatedSite, encoded: Encoded) -> None:
    """Take the tensor out and put what computes it at the start of the same graph."""
    source = located.source
    body = source.scope.body
    nodes = list(encoded.nodes)
    if source.node is not None:
        del body.node[next(i for i, n in enumerate(body.node) if source.name in n.output)]
    elif isinstance(body, GraphProto):
        del body.initializer[next(i for i, t in enumerate(body.initializer) if t.name == source.name)]
    if isinstance(body, GraphProto):
        body.initializer.extend(encoded.tensors)
    else:
        constants = [helper.make_node("Constant", [], [t.name], value=_unnamed(t)) for t in encoded.tensors]
        nodes = [*constants, *nodes]
    for node in reversed(nodes):
        body.node.insert(0, node)


def _unnamed(tensor: TensorProto) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.ClearField("name")
    return copy


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
