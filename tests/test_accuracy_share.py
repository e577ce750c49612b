"""A drop of accuracy is a share of the float model's accuracy, not a number of points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import classifier, run, weight
from onnx import numpy_helper

import mixquant_onnx as mq


@pytest.mark.parametrize(("drop", "bits"), [(0.5, 8), (0.9, 2)])
def test_half_of_an_accuracy_of_one_half_is_a_quarter(drop: float, bits: int, tmp_path: Path) -> None:
    """With two weights that spoil the range of 2 bits; half of the labels are wrong."""
    model = classifier()
    last = weight(64, 10)
    last[0, 0], last[1, 1] = 3, -3
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    stored.CopyFrom(numpy_helper.from_array(last, "w"))
    x = np.random.default_rng(0).standard_normal((400, 64)).astype(np.float32)
    labels = run(model, {"x": x})[0].argmax(axis=1)
    labels[::2] = (labels[::2] + 5) % 10
    np.savez(tmp_path / "rows.npz", x=x, labels=labels)
    options: dict[str, Any] = {"bits": [2, 8], "granularity": "tensor", "method": "minmax", "rounding": "nearest"}
    made = mq.quantize(model, data=tmp_path / "rows.npz", max_drop=drop, cost="energy", **options)
    proof = made.verification
    assert proof is not None and proof.deployed is not None
    kept, full = proof.deployed.accuracy, proof.float_accuracy
    assert kept is not None and full is not None and 0.4 < full < 0.6
    assert kept >= (1 - drop) * full
    assert made.plan.sites["w"].bits == bits
