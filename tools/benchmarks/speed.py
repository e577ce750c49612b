"""Integer execution: time as a share of float's, beside onnxruntime's own quantizer, and accuracy; in one run."""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

import mixquant_onnx as mq
from benchmarks.mobile import mobile
from benchmarks.models import figure, sources
from benchmarks.shapes import network
from benchmarks.timing import medians, session, table, versions
from mixquant_onnx.data.files import load_data
from mixquant_onnx.model.signature import model_inputs

Rows = dict[str, np.ndarray]
_ROWS_OF_STATIC = 32
"""Calibration rows for quantize_static, which keeps all activations in memory."""


GENERATED: dict[str, Callable[[], ModelProto]] = {
    "resnet18 shape": partial(network, 18),
    "resnet50 shape": partial(network, 50),
    "efficientnet_b0 shape (SiLU)": partial(mobile, "SiLU"),
    "efficientnet_b0 shape (hard-swish)": partial(mobile, "HardSwish"),
}
"""Nets with weights at random."""


def generated() -> dict[str, tuple[ModelProto, Rows]]:
    """These nets and rows for them."""
    rows = np.random.default_rng(1).standard_normal((8, 3, 224, 224)).astype(np.float32)
    return {name: (make(), {"x": rows}) for name, make in GENERATED.items()}


def calibrated(data_root: Path | None) -> dict[str, tuple[Path, Rows]]:
    """Models with a file of calibration rows."""
    found = {}
    for name, path in sources(data_root).items():
        folder = (data_root or path.parent.parent) / name
        folder = folder if (folder / "calib.npz").is_file() else path.parent
        if (folder / "calib.npz").is_file():
            feed = load_data(folder / "calib.npz", None, model_inputs(onnx.load(path))).feeds[0]
            found[name] = path, {key: np.asarray(value) for key, value in feed.items()}
    return found


def one_of(rows: Rows) -> Rows:
    """The first row; inputs of a state are kept whole."""
    return rows if "state" in rows else {key: value[:1] for key, value in rows.items()}


def static(source: Path, rows: Rows, output: Path) -> bool:
    """Run quantize_static by its best settings: uint8 activations, int8 weights per channel. Whether that worked."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            count = min(_ROWS_OF_STATIC, len(next(iter(rows.values()))))
            self._feeds = iter([{key: value[k : k + 1] for key, value in rows.items()} for k in range(count)])

        def get_next(self) -> Any:
            return next(self._feeds, None)

    logging.disable(logging.WARNING)
    try:
        quant_pre_process(str(source), str(output), skip_symbolic_shape=True)
        quantize_static(
            str(output), str(output), Reader(), quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, per_channel=True,
        )  # fmt: skip
        session(str(output)).run(None, one_of(rows))
    except Exception:  # it raises what it happens to meet
        return False
    return True


def measured(name: str, source: Path, rows: Rows, data_root: Path | None, folder: Path) -> list[object]:
    """One row of the table."""
    files = {"float": source, "integers": folder / "out.onnx"}
    started = time.process_time()
    # Calibration tells nothing of weights at random, and takes minutes.
    by = {"method": "minmax", "verify": False, "guard": False} if name in GENERATED else {}
    result = mq.quantize(source, files["integers"], activations=8, data=rows, **by)
    seconds = time.process_time() - started
    if static(source, rows, folder / "static.onnx"):
        files["static"] = folder / "static.onnx"
    shares = []
    for threads in (1, 2):
        actions = [partial(session(str(file), threads).run, None, one_of(rows)) for file in files.values()]
        times = dict(zip(files, medians(actions, rounds=31), strict=True))
        shares += [f"{times[key] / times['float']:.2f}" if key in times else "-" for key in ("integers", "static")]
        if threads == 1:
            shares.insert(0, f"{1000 * times['float']:.2f}")
    figures = [figure(name, files[key], data_root) if key in files else None for key in ("float", "integers", "static")]
    proof, layers = result.verification, [form == "int8" for form in result.rewritten.forms.values()]
    quality = None if proof is None else proof.deployed
    shown = "-" if quality is None or quality.sqnr_db is None else f"{quality.sqnr_db:.1f}"
    return [
        name, f"{result.nbytes_before / 1e6:.2f}", f"{result.nbytes_after / 1e6:.2f}", f"{sum(layers)}/{len(layers)}",
        *shares, shown, *("-" if f is None else f"{f:.4f}" for f in figures), f"{seconds:.0f}",
    ]  # fmt: skip


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="tools/bench speed", description=__doc__)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("MIXQUANT_DATA"))
    parser.add_argument("--only", help="names, separated by commas")
    args = parser.parse_args(arguments)
    data_root = None if args.data_root is None else Path(args.data_root)
    print(f"# Integer execution\n\n{versions()}; one row of input, medians, interleaved.\n")
    table_rows = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        subjects = calibrated(data_root)
        for name, (model, rows) in generated().items():
            onnx.save(model, folder / f"{name}.onnx")
            subjects[name] = folder / f"{name}.onnx", rows
        for name, (path, rows) in subjects.items():
            if not args.only or name in args.only.split(","):
                table_rows.append(measured(name, path, rows, data_root, folder))
    header = [
        "model",
        "MB",
        "MB after",
        "layers on integers",
        "float ms",
        "time / float",
        "static",
        "2 threads",
        "static",
    ]
    print(table([*header, "SQNR, dB", "float figure", "figure", "static", "CPU s"], table_rows))
    return 0
