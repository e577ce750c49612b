"""Noise as inputs where nothing else is known: values that a model can run on."""

from __future__ import annotations

import numpy as np
import pytest
from cases import text, weight
from onnx import ModelProto

from mixquant_onnx.data.noise import synthetic
from mixquant_onnx.runtime.session import Feed


def _first(model: ModelProto) -> Feed:
    return next(synthetic(model)).feeds[0]


@pytest.mark.parametrize("name", ["sr", "sample_rate", "sampling_rate", "SR"])
def test_a_sampling_rate_is_one_that_speech_models_have(name: str) -> None:
    assert _first(text(f"g (int64 {name}) => (int64 y) {{ y = Identity ({name}) }}"))[name] == 16000


def test_another_integer_without_dimensions_is_one() -> None:
    length = _first(text("g (int64 steps) => (int64 y) { y = Identity (steps) }"))["steps"]
    assert length == 1 and length.shape == () and length.dtype == np.int64


def test_masks_and_flags_keep_everything() -> None:
    feed = _first(
        text("g (int64[N,8] attention_mask, bool[N] flag) => (int64[N,8] y) { y = Identity (attention_mask) }")
    )
    assert feed["attention_mask"].shape == (1, 8) and (feed["attention_mask"] == 1).all()
    assert feed["flag"].dtype == np.bool_ and feed["flag"].all()


def test_indices_stay_inside_the_smallest_table_that_they_look_up() -> None:
    model = text(
        """g (int64[1,500] ids, float[40,4] large, float[7,4] small) => (float y)
        { i = Cast <to=6> (ids) a = Gather (small, ids) b = Gather (large, i) y = Add (a, b) }""",
        large=weight(40, 4), small=weight(7, 4),
    )  # fmt: skip
    ids = _first(model)["ids"]
    assert set(np.unique(ids)) == set(range(7))


def test_indices_that_become_one_of_several_are_of_two_values() -> None:
    model = text("""g (int64[1,500] ids) => (float y)
        { d = Constant <value_ints=[9]> () v = Constant <value_floats=[0.0, 1.0]> () y = OneHot (ids, d, v) }""")
    assert set(np.unique(_first(model)["ids"])) == {0, 1}


def test_a_picture_has_three_channels() -> None:
    shapes = [
        data.feeds[0]["x"].shape for data in synthetic(text("g (float[N,C,H,W] x) => (float y) { y = Relu (x) }"))
    ]
    assert len(shapes) > 5 and len(set(shapes)) == len(shapes)
    assert all(channels == 3 and height == width for _, channels, height, width in shapes)


def test_noise_is_the_same_each_time() -> None:
    model = text("g (float[N,8] x) => (float y) { y = Relu (x) }")
    np.testing.assert_array_equal(_first(model)["x"], _first(model)["x"])
    batches = [feed["x"] for feed in next(synthetic(model, count=3)).feeds]
    assert len(batches) == 3 and not np.array_equal(batches[0], batches[1])
