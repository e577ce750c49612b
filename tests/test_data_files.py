"""Feeds as the user has them: what is taken, how it is cut, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import Array, Fails, text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.files import data_of, load_data
from mixquant_onnx.errors import DataError
from mixquant_onnx.model.signature import model_inputs


def values(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def read(model: ModelProto, **arrays: Any) -> Data:
    return data_of([arrays], None, model_inputs(model))


def beside(state: str) -> ModelProto:
    return text(
        f"""g (float[n,64] x, float[{state}] state, float[64,64] w) => (float[m,64] y)
        {{ h = MatMul (x, w) y = Add (h, state) }}""", w=weight(64, 64),
    )  # fmt: skip


def test_rows_beside_a_state_of_fixed_size_go_with_its_rows() -> None:
    x, state = values(8, 64), values(8, 64) + 1
    data = read(beside("1,64"), x=x, state=state)
    assert len(data.feeds) == 8
    for k, feed in enumerate(data.feeds):
        np.testing.assert_array_equal(feed["x"], x[k : k + 1])
        np.testing.assert_array_equal(feed["state"], state[k : k + 1])
    data = read(beside("2,64"), x=x, state=state)
    assert [feed["x"].shape for feed in data.feeds] == [feed["state"].shape for feed in data.feeds] == [(2, 64)] * 4


def test_one_row_beside_many_of_fixed_size_is_shared() -> None:
    data = read(beside("1,64"), x=values(1, 64), state=values(8, 64))
    assert [feed["x"].shape for feed in data.feeds] == [(1, 64)] * 8


def test_other_numbers_of_rows_beside_a_fixed_size_are_refused() -> None:
    with pytest.raises(DataError, match="'x' has 5 rows"):
        read(beside("1,64"), x=values(5, 64), state=values(8, 64))


def test_a_state_with_its_batch_on_another_axis_is_cut_there() -> None:
    model = text("g (float[1,4] x, float[2,1,4] state) => (float[2,1,4] y) { y = Add (state, x) }")
    x, state = values(6, 4), values(2, 6, 4)
    data = read(model, x=x, state=state)
    assert len(data.feeds) == 6
    np.testing.assert_array_equal(np.concatenate([f["state"] for f in data.feeds], 1), state)
    for others in ({"x": values(1, 4), "state": state}, {"x": values(5, 4), "state": state}):
        with pytest.raises(DataError, match="'state' has shape"):
            read(model, **others)


def past() -> ModelProto:
    return text(
        """g (float[n,t,8] x, float[n,p,8] past, float[n,k] mask, float[8,64] w) => (float[n,t,64] y)
        { s = Concat <axis = 1> (past, x) st = Transpose <perm = [0,2,1]> (s) a = MatMul (x, st)
          i = Constant <value = int64[1] {1}> () m = Unsqueeze (mask, i) b = Add (a, m) p = Softmax (b)
          c = MatMul (p, s) y = MatMul (c, w) }""", w=weight(8, 64),
    )  # fmt: skip


def test_an_empty_past_and_a_mask_of_minus_infinity_are_data() -> None:
    mask = np.where(np.arange(5) < 4, 0, -np.inf).astype(np.float32)[None].repeat(32, 0)
    feed = {"x": values(32, 5, 8), "past": values(32, 0, 8), "mask": mask}
    proved = mq.quantize(past(), data=feed).verification
    assert proved is not None
    assert proved.samples == 8
    for wrong, named in ((np.nan, "NaN"), (np.inf, "Inf")):
        with pytest.raises(DataError, match=f"'mask' holds.*{named}"):
            read(past(), **{**feed, "mask": np.full((32, 5), wrong, np.float32)})
    with pytest.raises(DataError, match="at least one row"):
        read(past(), **{**feed, "x": values(0, 5, 8)})


STRINGS = text(
    """g (string[n] word, float[n,64] x, float[64,64] w) => (string[n] same, float[n,64] y)
    { same = Identity (word) y = MatMul (x, w) }""", w=weight(64, 64),
)  # fmt: skip


@pytest.mark.parametrize("kind", [str, object, np.bytes_])
def test_strings_are_data(kind: Any) -> None:
    words = np.array([f"word {k}" for k in range(32)]).astype(kind)
    proved = mq.quantize(STRINGS, data={"word": words, "x": values(32, 64)}).verification
    assert proved is not None
    assert proved.samples == 8
    assert read(STRINGS, word=words, x=values(32, 64)).feeds[0]["word"][3] == "word 3"


def test_strings_come_from_a_file_and_numbers_are_not_strings(tmp_path: Path, output: Path, fails: Fails) -> None:
    onnx.save(STRINGS, tmp_path / "model.onnx")
    for name, words in (("good", np.array(["a"] * 20)), ("bad", np.arange(20))):
        np.savez(tmp_path / f"{name}.npz", word=words, x=values(20, 64))
    assert "takes strings" in fails(6, tmp_path / "model.onnx", output, "--data", tmp_path / "bad.npz")
    assert main([str(tmp_path / "model.onnx"), str(output), "--data", str(tmp_path / "good.npz")]) == 0


SEQUENCE = text(
    """g (seq(float[n,32]) parts, float[64,64] w) => (float[n,64] y)
    { x = ConcatFromSequence <axis = 1> (parts) y = MatMul (x, w) }""", w=weight(64, 64),
)  # fmt: skip


def test_sequences_are_data(tmp_path: Path) -> None:
    parts = [values(32, 32), values(32, 32) + 1]
    numbered = {f"parts.{k}": part for k, part in enumerate(parts)}
    np.savez(tmp_path / "numbered.npz", allow_pickle=False, **numbered)
    np.savez(tmp_path / "stacked.npz", parts=np.stack(parts))
    for given in (tmp_path / "numbered.npz", tmp_path / "stacked.npz"):
        (feed,) = load_data(given, None, model_inputs(SEQUENCE)).feeds
        assert isinstance(feed["parts"], list)
        np.testing.assert_array_equal(np.stack(feed["parts"]), np.stack(parts))
    proved = mq.quantize(SEQUENCE, data=[{"parts": parts} for _ in range(20)]).verification
    assert proved is not None and proved.deployed is not None
    assert not proved.synthetic
    assert (proved.deployed.sqnr_db or 0) > 20
    with pytest.raises(DataError, match=r"'parts\.0'"):
        read(SEQUENCE, x=values(3, 3))
