"""All weights of a network from plain values: bounds on their errors, surrogates, the order of the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from cases import Array, text

from mixquant_onnx.data.dataset import Data
from mixquant_onnx.model.weights import find, weight_values
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.quantization.network import ErrorBound, NetworkTask, quantize_layers
from mixquant_onnx.quantization.weight import quantization_error

RANDOM = np.random.default_rng(3)


def values(*shape: int) -> Array:
    return np.asarray(RANDOM.standard_normal(shape), np.float32)


INPUTS = np.abs(values(64, 4) @ values(4, 32)) + np.float32(0.1) * values(64, 32)
MODEL = text(
    """g (float[N,32] x, float[32,24] a, float[24,16] b) => (float[N,16] y)
    { h = MatMul (x, a) r = Relu (h) y = MatMul (r, b) }""", a=values(32, 24), b=values(24, 16),
)  # fmt: skip


def task(method: str, bounds: Mapping[str, ErrorBound], **more: Any) -> NetworkTask:
    schemes = {name: Scheme.parse(f"w3.channel.{method}") for name in ("b", "a")}
    return NetworkTask(model=MODEL, weights=find(MODEL, 1).sites, schemes=schemes, bounds=bounds, **more)


def data() -> Data:
    return Data(feeds=({"x": INPUTS},), labels=None, axes={"x": 0})


def errors(given: NetworkTask, rows: Data | None) -> dict[str, float]:
    made = quantize_layers(given, rows).quantized
    return {name: quantization_error(q, weight_values(given.weights[name])) for name, q in made.items()}


def test_a_calibrated_weight_beyond_its_limit_takes_the_first_wider_scheme_that_keeps_it() -> None:
    free = quantize_layers(task("gptq", {}), data()).quantized
    assert list(free) == ["b", "a"]
    wider = tuple(Scheme.parse(f"w{bits}.channel.gptq") for bits in range(4, 9))
    limit = 0.05 * errors(task("gptq", {}), data())["a"]
    bound = {"a": ErrorBound(limit=limit, wider=wider)}
    made = quantize_layers(task("gptq", bound), data()).quantized
    assert 3 < made["a"].scheme.bits < 8 and made["b"].scheme.bits == 3
    assert errors(task("gptq", bound), data())["a"] <= limit
    fewer = tuple(scheme for scheme in wider if scheme.bits < made["a"].scheme.bits)
    short = {"a": ErrorBound(limit=limit, wider=fewer)}
    assert errors(task("gptq", short), data())["a"] > limit
    alone = quantize_layers(task("gptq", {"a": ErrorBound(limit=limit)}), data()).quantized
    assert alone["a"].scheme.bits == 3
    np.testing.assert_array_equal(alone["a"].codes, free["a"].codes)


def test_bias_correction_that_breaks_the_limit_is_given_up() -> None:
    nearest, corrected = (errors(task("mse", {}, compensated=c), data()) for c in (False, True))
    assert nearest["a"] < corrected["a"]
    between = {"a": ErrorBound(limit=(nearest["a"] + corrected["a"]) / 2)}
    assert errors(task("mse", between), data()) == {"a": nearest["a"], "b": corrected["b"]}


@pytest.mark.parametrize("origin", [None, "noise"])
def test_without_data_a_calibrated_method_rounds_its_ranges(origin: Any) -> None:
    rows = None if origin is None else Data(feeds=({"x": INPUTS},), labels=None, origin=origin, axes={"x": 0})
    assert errors(task("gptq", {}, compensated=False), rows) == errors(task("mse", {}, compensated=False), None)


def test_later_weights_are_fitted_to_the_inputs_that_earlier_ones_leave() -> None:
    """`b` alone meets the float model's inputs; after `a` at 3 bits it meets others."""
    after = quantize_layers(task("gptq", {}), data()).quantized["b"]
    given = task("gptq", {})
    alone = NetworkTask(model=MODEL, weights=given.weights, schemes={"b": given.schemes["b"]})
    assert (after.codes != quantize_layers(alone, data()).quantized["b"].codes).any()


@pytest.mark.parametrize("method", ["mse", "gptq"])
def test_each_step_is_reported(method: str) -> None:
    steps: list[tuple[str, int, int]] = []
    quantize_layers(task(method, {}), data(), progress=lambda *step: steps.append(step))
    assert steps == [("quantize", 1, 2), ("quantize", 2, 2)]
