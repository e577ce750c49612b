"""Verification of a model that is too large to be run: its codes, that it loads, and some layers alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from mixquant_onnx.errors import ProofError, counted
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.export.encodings.builder import ONNX_TYPE
from mixquant_onnx.export.packed_operators import KERNEL_DOMAIN, TABLE, Constants, Stored, decoded_rows, stored
from mixquant_onnx.export.rewrite import Rewritten
from mixquant_onnx.model.dtypes import numpy_type
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.model.tensor_data import release
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.numerics.granularity import Granularity
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.quantization.slices import sliced, slices_of
from mixquant_onnx.quantization.weight import output_rows
from mixquant_onnx.runtime.session import RuntimeFailure, Session
from mixquant_onnx.verification.codes import model_like, needed, verify_codes
from mixquant_onnx.verification.equivalence import LEAST_SQNR_DB
from mixquant_onnx.verification.packed import check_packed
from mixquant_onnx.verification.result import Verification
from mixquant_onnx.verification.saturation import overflowing
from mixquant_onnx.verification.slices import check_by_slices

_LAYERS = 16
"""Layers that are run, evenly spaced among those that can be."""

_MOST_WEIGHTS = 1 << 26
"""Weights of a layer that is run, or decoded at once: 256 MiB in float32."""

_RUN = (("MatMul", 1), ("Gather", 0))
"""Operators, and the input that is the weight, of layers that can be run."""

_ROWS = 3
_STEPS = 3
_SEED = 0


def verify_large(
    saved: ModelProto,
    sites: Mapping[str, LocatedWeight],
    quantized: Mapping[str, QuantizedTensor],
    rewritten: Rewritten,
    source: ModelProto | Path,
    progress: Progress = quiet,
) -> Verification:
    """Check a written model without running it as a whole.

    Args:
        saved: The written model, as loaded from its file.
        sites: Weights of the float model, by name.
        quantized: The quantized weights, by name.
        rewritten: What the rewrite did to each weight.
        source: What ONNX Runtime loads: the written file, or the model where there is no file.
        progress: Called with the stage "verify".

    Returns:
        What was checked; outputs are not compared.

    Raises:
        ProofError: A check failed.
    """
    progress("verify", 0, _STEPS)
    try:
        Session(source, "unoptimized")
    except RuntimeFailure as failure:
        raise ProofError(f"verification failed: ONNX Runtime does not load the result ({failure})") from failure
    progress("verify", 1, _STEPS)
    held = {rewritten.values[name]: name for name in quantized}
    packed = {held[value] for value in rewritten.packed.values()}
    plain = {name: q for name, q in quantized.items() if name not in packed}
    main = walk(saved)[0]
    for name in [n for n, q in plain.items() if q.codes.size > _MOST_WEIGHTS and not sites[n].site.scope]:
        if check_by_slices(saved, main, rewritten.values[name], name, plain[name]):
            del plain[name]
    decoder = verify_codes(saved, sites, plain, rewritten.values, rewritten.transposed)
    _check_packed_codes(saved, {codes: quantized[held[value]] for codes, value in rewritten.packed.items()})
    progress("verify", 2, _STEPS)
    run = _run_some(saved, sites, quantized, rewritten, packed)
    progress("verify", 3, _STEPS)
    return Verification(
        codes=len(quantized), decoder=decoder, reference_sqnr_db=None, quality=(), float_accuracy_share=None,
        samples=0, origin="user", data_name="", notes=(_note(run, len(quantized)),), warnings=(),
        overflowing=overflowing(quantized, rewritten.storages),
    )  # fmt: skip


def _note(run: int, count: int) -> str:
    return (
        f"outputs were not compared, as the model has over 2 GB (--data runs it as a whole, in about 3 times its size "
        f"of memory); {run} of {counted(count, 'layer')} were run alone"
    )


def _check_packed_codes(saved: ModelProto, packed: Mapping[str, QuantizedTensor]) -> None:
    """Decode what kernels read, in slices of some rows. Raises ProofError."""
    constants, seen = Constants(saved), set[str]()
    for node in saved.graph.node:
        place = 0 if node.op_type == TABLE else 1
        codes = node.input[place] if node.domain == KERNEL_DOMAIN and len(node.input) > place else ""
        if codes in packed and codes not in seen:
            seen.add(codes)
            _compare_rows(node, stored(node, constants), packed[codes])
            release(packed[codes].codes)


def _compare_rows(node: NodeProto, given: Stored, q: QuantizedTensor) -> None:
    for part in slices_of(q.codes.shape, q.layout, Granularity(per="channel")):
        span = part[-1] if part else slice(None)
        expected = output_rows(q.layout, sliced(q, part).dequantize(np.dtype(np.float32)))
        if not np.array_equal(decoded_rows(node, given, span), expected):
            raise ProofError(f"verification failed at '{node.name}': its stored codes do not decode to its weights")


def _run_some(
    saved: ModelProto, sites: Mapping[str, LocatedWeight], quantized: Mapping[str, QuantizedTensor],
    rewritten: Rewritten, packed: set[str],
) -> int:  # fmt: skip
    """Run some layers alone; how many. Raises ProofError."""
    makers = {name: node for node in saved.graph.node for name in node.output}
    able = [n for n in quantized if quantized[n].codes.size <= _MOST_WEIGHTS and _node_of(sites[n], makers) is not None]
    chosen = able[:: max(1, -(-len(able) // _LAYERS))]
    for name in chosen:
        node = _node_of(sites[name], makers)
        assert node is not None
        codes = node.input[0 if node.op_type == TABLE else 1]
        if name not in packed:
            _check_product(saved, node, quantized[name])
        elif rewritten.packed.get(codes) == rewritten.values[name]:
            check_packed(saved, rewritten.packed, [node])
        else:
            raise ProofError(f"verification failed at '{node.name}': it reads another weight than '{name}'")
    return len(chosen)


def _node_of(located: LocatedWeight, makers: Mapping[str, NodeProto]) -> NodeProto | None:
    """The node of the written model in place of the MatMul or Gather that reads a weight; None for other layers."""
    reader = located.readers[0]
    if reader.steps or reader.scope.parent is not None or (reader.node.op_type, reader.index) not in _RUN:
        return None
    return makers.get(reader.node.output[0])


def _check_product(saved: ModelProto, node: NodeProto, q: QuantizedTensor) -> None:
    """One MatMul or Gather on codes that are decoded, against NumPy. Raises ProofError."""
    alone = NodeProto()
    alone.CopyFrom(node)
    product = node.op_type == "MatMul"
    nodes, tensors = needed(walk(saved)[0], [node.input[1 if product else 0]])
    alone.input[0 if product else 1], alone.output[0] = "x", "y"
    given, made = ONNX_TYPE[q.dtype] if product else TensorProto.INT64, ONNX_TYPE[q.dtype]
    graph = helper.make_graph(
        [*nodes, alone], "layer", [helper.make_tensor_value_info("x", given, None)],
        [helper.make_tensor_value_info("y", made, None)], tensors,
    )  # fmt: skip
    x, wanted = _example(q, product)
    got = np.asarray(Session(model_like(saved, graph), "exact").run({"x": x})[0], np.float32)
    if not relative_noise([[wanted]], [[got]]) <= 10 ** (-LEAST_SQNR_DB[q.dtype] / 10):
        raise ProofError(f"verification failed at '{node.name}': the layer computes something else")


def _example(q: QuantizedTensor, product: bool) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    """Random activations or some rows of a table, and what the layer gives for them."""
    weight = q.dequantize(np.dtype(np.float32))
    if not product:
        rows = np.linspace(0, len(weight) - 1, min(len(weight), _ROWS), dtype=np.int64)
        return rows, weight[rows]
    x = np.random.default_rng(_SEED).standard_normal((_ROWS, weight.shape[0])).astype(np.float32)
    return x.astype(numpy_type(q.dtype)), x @ weight
