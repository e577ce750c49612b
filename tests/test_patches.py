"""Patches of a convolution's input, drawn at random positions, equal those cut out of the padded input one by one."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from mixquant_onnx.model.layer_inputs import Feature
from mixquant_onnx.model.padding import window_padding
from mixquant_onnx.numerics.arrays import FloatArray

RANDOM = np.random.default_rng(5)
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, dict[str, Any]]] = {
    "1x1": ((3, 4, 9, 8), (1, 1), 1, {}),
    "1x1, strides": ((3, 4, 9, 8), (1, 1), 2, {"strides": [2, 3]}),
    "1x1, pads": ((3, 4, 9, 8), (1, 1), 1, {"pads": [1, 0, 0, 2]}),
    "3x3, many samples": ((150, 4, 4, 3), (3, 3), 1, {"pads": [1, 1, 1, 1]}),
    "groups": ((3, 6, 7, 7), (3, 3), 3, {"pads": [1, 1, 1, 1], "dilations": [2, 1]}),
    "depthwise": ((3, 6, 7, 7), (3, 3), 6, {"pads": [1, 1, 1, 1]}),
    "depthwise, few positions": ((2, 3, 40, 40), (3, 3), 3, {"auto_pad": b"SAME_LOWER", "strides": [9, 9]}),
    "1-D": ((5, 4, 17), (3,), 2, {"auto_pad": "SAME_UPPER", "strides": [2]}),
    "3-D": ((2, 4, 5, 6, 7), (2, 3, 3), 2, {"pads": [0, 1, 1, 1, 0, 2], "strides": [1, 2, 1]}),
}


def all_patches(value: FloatArray, kernel: tuple[int, ...], groups: int, at: dict[str, Any]) -> FloatArray:
    """Every patch in the order of the output's positions, [groups, n, width]."""
    before, after = window_padding(at, value.shape[2:], kernel)
    padded = np.pad(value, [(0, 0), (0, 0), *zip(before, after, strict=True)])
    strides, dilations = at.get("strides", [1] * len(kernel)), at.get("dilations", [1] * len(kernel))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = [(n - span) // s + 1 for n, span, s in zip(padded.shape[2:], spans, strides, strict=True)]
    found = []
    for sample, *place in itertools.product(range(len(value)), *map(range, sizes)):
        cut = padded[sample]
        for axis, (p, s, n, d) in enumerate(zip(place, strides, spans, dilations, strict=True)):
            cut = cut.take(np.arange(p * s, p * s + n, d), axis=axis + 1)
        found.append(cut.reshape(groups, -1))
    return np.stack(found, axis=1).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", CASES)
def test_patches_equal_those_cut_out_of_the_padded_input(name: str, dtype: type) -> None:
    shape, kernel, groups, at = CASES[name]
    value: FloatArray = RANDOM.standard_normal(shape).astype(dtype)
    width = shape[1] // groups * math.prod(kernel)
    feature = Feature(place=("", "x"), kind="conv", groups=groups, width=width, kernel=kernel, attributes=at)
    wanted = all_patches(value, kernel, groups, at)
    every = feature.rows(value, 10**9, 0)
    assert every is not None and every.dtype == np.float32
    np.testing.assert_array_equal(every, wanted)
    count = wanted.shape[1] // 3
    some = feature.rows(value, count, 7)
    drawn = np.sort(np.random.default_rng(7).choice(wanted.shape[1], count, replace=False))
    np.testing.assert_array_equal(some, wanted[:, drawn])


def test_the_channels_of_the_input_must_fit_the_weight() -> None:
    feature = Feature(place=("", "x"), kind="conv", groups=1, width=27, kernel=(3, 3), attributes={})
    assert feature.rows(np.ones((1, 4, 9, 9), np.float32), 10, 0) is None
    assert feature.rows(np.ones((1, 3, 2, 9), np.float32), 10, 0) is None
    assert feature.rows(np.ones((1, 3, 9, 9), np.float32), 10, 0) is not None
