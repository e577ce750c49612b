"""Time of the search over seven widths against the plain NumPy formulation, on ResNet-sized weights."""

from __future__ import annotations

import argparse
import os

import numpy as np

from benchmarks.shapes import BLOCKS, weights
from benchmarks.timing import medians, table, versions
from mixquant_onnx.config.stages import SearchOptions
from mixquant_onnx.model.weights import WeightTensor
from mixquant_onnx.numerics.granularity import Granularity, WeightAxes
from mixquant_onnx.planning.error_table import site_errors
from mixquant_onnx.quantization.ranges.minmax import baseline_error

WIDTHS = (2, 3, 4, 5, 6, 7, 8)


def plain(tensors: list[np.ndarray]) -> list[float]:
    """The textbook formulation: quantize to codes, dequantize, mean of the squared difference in float64."""
    found = []
    for weight in tensors:
        low, high = min(float(weight.min()), 0.0), max(float(weight.max()), 0.0)
        for bits in WIDTHS:
            top = 2**bits - 1
            scale = np.float32((high - low) / top)
            zero = np.float32(round(-low / float(scale)))
            codes = np.clip(np.round(weight / scale) + zero, 0, top).astype(np.uint8)
            restored = (codes.astype(np.float32) - zero) * scale
            found.append(float(np.mean((weight - restored) ** 2, dtype=np.float64)))
    return found


def sites(tensors: list[np.ndarray]) -> list[WeightTensor]:
    """Named by their positions."""
    return [
        WeightTensor(
            name=str(k), tensor="w", scope="", shape=weight.shape, dtype="float32",
            layout=WeightAxes(p=1, r=weight.ndim - 1), uses=(),
        )
        for k, weight in enumerate(tensors)
    ]  # fmt: skip


def ours(tensors: list[np.ndarray], grid: str, method: str = "minmax") -> list[float]:
    options = SearchOptions(grids=(Granularity.parse(grid),), method=method)
    found = [site_errors(site, weight, options) for site, weight in zip(sites(tensors), tensors, strict=True)]
    return [cell.qe for errors in found for cell in errors.candidates]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench search", description=__doc__)
    parser.add_argument("--depths", default="18,50,101,152")
    args = parser.parse_args(arguments)
    if os.environ.get("OMP_NUM_THREADS") != "1":
        print("note: run with OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 for one core")
    print(f"# Search over {len(WIDTHS)} widths\n\n{versions()}; medians of interleaved runs, baseline included.\n")
    rows = []
    for depth in map(int, args.depths.split(",")):
        assert depth in BLOCKS
        tensors = weights(depth)
        exact = np.array(plain(tensors)[WIDTHS.index(8) :: len(WIDTHS)])
        quick = np.array([baseline_error(t) / t.size for t in tensors])
        difference = float(np.max(np.abs(quick / exact - 1)))
        actions = [lambda t=tensors: plain(t)]
        actions += [lambda t=tensors, g=grid: ours(t, g) for grid in ("tensor", "channel", "block:32")]
        times = medians(actions, rounds=5)
        total = f"{sum(t.size for t in tensors) / 1e6:.1f}"
        shares = [f"{times[0] / times[1]:.1f}x", f"{times[2] / times[1]:.2f}"]
        rows.append([f"ResNet-{depth}", total, *(f"{t:.3f} s" for t in times), *shares, f"{difference:.0e}"])
    header = ["weights of", "million", "plain", "tensor", "channel", "block:32", "plain / tensor"]
    print(table([*header, "channel / tensor", "difference of the int8 QE"], rows))
    return 0
