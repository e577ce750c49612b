"""The form that a weight takes in the file: its tensors, nodes and functions, before they are put into a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from mixquant_onnx.config.stages import FormOptions
from mixquant_onnx.export.encodings.dequantize_linear import encode_native, opset_for
from mixquant_onnx.export.encodings.encoder import Encoded, encode_folded, encode_matmul
from mixquant_onnx.export.targets.forms import Kernel, kernel_for, matmul_shape
from mixquant_onnx.model.operators import attributes
from mixquant_onnx.model.product_rows import one_row
from mixquant_onnx.model.weights import LocatedSite, WeightSite
from mixquant_onnx.numerics.scheme import Quantized, Scheme

BROADCASTING_FROM = 7
"""The first opset with NumPy broadcasting, and the first that ONNX Runtime runs."""

SMALL_INTS_FROM_OPSET = 14
KERNELS_FROM_OPSET = 21

Shapes = Callable[[], Mapping[str, tuple[int | None, ...]]]
"""The shapes of the model's values, worked out when they are first needed."""


def kernel_of(located: LocatedSite, scheme: Scheme, options: FormOptions, shapes: Shapes) -> Kernel | None:
    """The fused kernel that runs this weight, or None: it is folded (or a DequantizeLinear under `qdq`)."""
    kernel = kernel_for(located.site, scheme, options)
    if kernel is None or not _fusable(located):
        return None
    return kernel if options.fused == "always" or one_row(located, shapes()) else None


def _fusable(located: LocatedSite) -> bool:
    """Every reader is a node of the graph that holds the weight (a function's cannot be changed for one call)."""
    if located.source.scope.in_function or any(r.scope.in_function for r in located.readers):
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


def opset_of_form(site: WeightSite, scheme: Scheme, kernel: Kernel | None, options: FormOptions) -> int:
    """The first opset that has the best form of this weight."""
    if kernel is not None:
        return KERNELS_FROM_OPSET
    needed = BROADCASTING_FROM
    if options.target == "qdq":
        needed = opset_for(site.shape, site.layout, scheme.grid, scheme.bits)
    small = options.small_ints and scheme.bits < 8
    return max(needed, SMALL_INTS_FROM_OPSET) if small else needed


def encode(
    located: LocatedSite,
    q: Quantized,
    kernel: Kernel | None,
    options: FormOptions,
    opset: int,
    fresh: Callable[[str], str],
) -> tuple[Encoded, str]:
    """What takes the place of the stored tensor, with its documentation, and the name of the form."""
    encoded, form = _encode(located, q, kernel, options, opset, fresh)
    _document(located, encoded)
    return encoded, form


def _encode(
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
    transpose = is_transposed(located)
    output = fresh(f"{name}.transposed") if transpose else name
    return encode_matmul(q, output, kernel, transpose, opset, fresh), f"MatMulNBits {kernel.bits}"


def is_transposed(located: LocatedSite) -> bool:
    """Whether a Gemm reads the weight as [N, K]."""
    gemms = [r.node for r in located.readers if r.node.op_type == "Gemm"]
    return bool(gemms) and bool(attributes(gemms[0]).get("transB", 0))


def _two_bits_broken(located: LocatedSite) -> bool:
    """ONNX Runtime 1.31 fuses 2-bit MatMul wrongly where N is no multiple of 4."""
    if not any(r.node.op_type in ("MatMul", "Gemm") for r in located.readers):
        return False
    return len(located.site.shape) != 2 or matmul_shape(located.site)[1] % 4 != 0


def _document(located: LocatedSite, encoded: Encoded) -> None:
    """Doc string and metadata of what is replaced: a tensor's go to the codes, a Constant node's to the last node."""
    old, codes = located.source.tensor, encoded.tensors[0]
    _move_documentation(old, codes)
    if located.source.node is not None:
        _move_documentation(located.source.node, encoded.nodes[-1])


def _move_documentation(old: TensorProto | NodeProto, new: TensorProto | NodeProto) -> None:
    if old.doc_string:
        new.doc_string = old.doc_string
    new.metadata_props.extend(old.metadata_props)


def constant_of(tensor: TensorProto) -> NodeProto:
    """A Constant node that gives `tensor` under its name."""
    node = NodeProto(op_type="Constant", output=[tensor.name])
    attribute = node.attribute.add(name="value", type=AttributeProto.TENSOR)
    attribute.t.CopyFrom(tensor)
    attribute.t.ClearField("name")
    return node
