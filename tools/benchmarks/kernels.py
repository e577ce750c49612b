"""Every operator and width against float, on models of one operator, as this project writes them."""

from __future__ import annotations

import argparse

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

import mixquant_onnx as mq
from benchmarks.timing import ratios, session, table, versions

ROWS = (1, 16, 64, 256)
SIZES = (
    (64, 64), (128, 128), (256, 64), (64, 256), (256, 256), (512, 128), (128, 512), (384, 384), (384, 1536),
    (1536, 384), (768, 768), (1024, 1024), (1000, 300), (300, 1000), (2048, 2048), (768, 3072),
)  # fmt: skip


def _model(nodes: list[object], dims: list[object], weights: dict[str, np.ndarray]) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def matmul(k: int, n: int) -> ModelProto:
    random = np.random.default_rng(0)
    return _model([helper.make_node("MatMul", ["x", "w"], ["y"])], ["r", k], {"w": random.standard_normal((k, n))})


def gemm(k: int, n: int) -> ModelProto:
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((n, k)), "b": random.standard_normal(n)}
    return _model([helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)], ["r", k], weights)


def others() -> dict[str, tuple[ModelProto, tuple[int, ...]]]:
    """Name -> (model, shape of x) for the operators that are not a product of two matrices."""
    random = np.random.default_rng(0)
    normal = random.standard_normal
    conv = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    depthwise = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], group=128)
    pointwise = helper.make_node("Conv", ["x", "w"], ["y"])
    transposed = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    lstm = helper.make_node("LSTM", ["x", "w", "r"], ["", "y"], hidden_size=128)
    cast = helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64)
    gather = helper.make_node("Gather", ["w", "i"], ["y"])
    return {
        "Conv 3x3 128": (_model([conv], [1, 128, 28, 28], {"w": normal((128, 128, 3, 3))}), (1, 128, 28, 28)),
        "Conv depthwise": (_model([depthwise], [1, 128, 28, 28], {"w": normal((128, 1, 3, 3))}), (1, 128, 28, 28)),
        "Conv 1x1 256": (_model([pointwise], [1, 256, 14, 14], {"w": normal((256, 256, 1, 1))}), (1, 256, 14, 14)),
        "ConvTranspose": (_model([transposed], [1, 64, 28, 28], {"w": normal((64, 64, 2, 2))}), (1, 64, 28, 28)),
        "LSTM 128": (
            _model([lstm], [8, 1, 128], {"w": normal((1, 512, 128)), "r": normal((1, 512, 128))}),
            (8, 1, 128),
        ),
        "Gather 30000x384": (_model([cast, gather], [1, 64], {"w": normal((30000, 384))}), (1, 64)),
    }


def _quantized(model: ModelProto, bits: int, granularity: str) -> bytes | None:
    """None where the file would be no smaller, and the weight stays float."""
    try:
        made = mq.quantize(model, bits=[bits], granularity=granularity, fused="always", verify=False, data_free=True)
    except mq.UnchangedError:
        return None
    return made.model.SerializeToString()


def measure(model: ModelProto, shape: tuple[int, ...], widths: list[int], granularity: str) -> list[float | None]:
    """Time as a share of float's for each width; None where the weight stays float."""
    x = np.abs(np.random.default_rng(1).standard_normal(shape)).astype(np.float32)
    made = [_quantized(model, bits, granularity) for bits in widths]
    sessions = [session(model.SerializeToString()), *(session(file) for file in made if file is not None)]
    found = iter(ratios([lambda s=s: s.run(None, {"x": x}) for s in sessions]))
    return [None if file is None else next(found) for file in made]


def _row(name: str, rows: int | str, found: list[float | None]) -> list[object]:
    return [name, rows, *("float" if share is None else f"{share:.2f}" for share in found)]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench kernels", description=__doc__)
    parser.add_argument("--granularity", default="channel")
    parser.add_argument("--bits", default="2,3,4,5,6,7,8")
    parser.add_argument("--operators", default="MatMul,Gemm,others")
    parser.add_argument("--sizes", help="KxN,KxN instead of the built-in list")
    args = parser.parse_args(arguments)
    widths = [int(bits) for bits in args.bits.split(",")]
    sizes = [tuple(map(int, s.split("x"))) for s in args.sizes.split(",")] if args.sizes else SIZES
    print(f"# Time as a share of float: granularity {args.granularity}\n\n{versions()}; medians, interleaved.")
    print("MatMul and Gemm with `--fused always`. float: the weight stays float, as its file would be no smaller.\n")
    rows: list[list[object]] = []
    worst = 0.0
    for name, build in (("MatMul", matmul), ("Gemm", gemm)):
        if name not in args.operators:
            continue
        for k, n in sizes:
            for r in ROWS:
                found = measure(build(k, n), (r, k), widths, args.granularity)
                worst = max(worst, *(share or 0.0 for share in found))
                rows.append(_row(f"{name} {k}x{n}", r, found))
    if "others" in args.operators:
        for name, (model, shape) in others().items():
            found = measure(model, shape, widths, args.granularity)
            worst = max(worst, *(share or 0.0 for share in found))
            rows.append(_row(name, "-", found))
    print(table(["operator", "rows", *(f"{bits} bits" for bits in widths)], rows))
    print(f"\nhighest share: {worst:.2f}")
    return 0
