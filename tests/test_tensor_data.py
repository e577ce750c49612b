"""External tensors that stay in their files, and values that are written to a file without a name."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import Fails, run, text, weight
from onnx import ModelProto, TensorProto, numpy_helper

import mixquant_onnx as mq
from mixquant_onnx.config.stages import Fused
from mixquant_onnx.model import external_input
from mixquant_onnx.model.files import load, save
from mixquant_onnx.model.scratch import Scratch
from mixquant_onnx.model.tensor_data import is_outside, place_of, raw_bytes, refer, release, values_of, with_data
from mixquant_onnx.runtime.session import Session

SIDE = 520
"""A matrix of that many rows and columns takes more than 1 MiB in float32."""


def model_outside(folder: Path, opset: int = 17) -> Path:
    """Two products, one of which stays in its file when it is read."""
    model = text(
        f"""g (float[N,{SIDE}] x, float[{SIDE},{SIDE}] v, float[{SIDE},40] w) => (float[N,40] y)
            {{ h = MatMul (x, v) r = Relu (h) y = MatMul (r, w) }}""",
        v=weight(SIDE, SIDE), w=weight(SIDE, 40, seed=1), opset=opset,
    )  # fmt: skip
    onnx.save(model, folder / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    return folder / "in.onnx"


def test_large_tensors_stay_in_their_file_and_small_ones_do_not(tmp_path: Path) -> None:
    loaded = load(model_outside(tmp_path))
    large, small = loaded.model.graph.initializer
    assert is_outside(large) and not is_outside(small)
    assert loaded.model.ByteSize() < 100_000 < loaded.nbytes
    np.testing.assert_array_equal(values_of(large), weight(SIDE, SIDE))
    np.testing.assert_array_equal(values_of(small), weight(SIDE, 40, seed=1))
    assert bytes(raw_bytes(large)) == weight(SIDE, SIDE).tobytes() and bytes(raw_bytes(small)) == small.raw_data
    with pytest.raises(ValueError, match="read-only"):
        values_of(large)[0, 0] = 1


def test_values_are_there_after_the_name_of_the_file_is_gone(tmp_path: Path) -> None:
    loaded = load(model_outside(tmp_path))
    (tmp_path / "in.data").unlink()
    copy = ModelProto()
    copy.CopyFrom(loaded.model)
    large = copy.graph.initializer[0]
    assert values_of(large).shape == (SIDE, SIDE)
    feed = {"x": weight(3, SIDE, seed=2)}
    np.testing.assert_array_equal(Session(copy).run(feed)[0], run(with_data(copy), feed)[0])
    del loaded
    gc.collect()
    with pytest.raises(FileNotFoundError):
        values_of(large)


def test_a_model_with_a_file_for_each_tensor_opens_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_input, "_MOST_OPEN", 1)
    monkeypatch.setattr(external_input, "MAPPED_FROM", 64)
    model, feed = onnx.load(model_outside(tmp_path)), {"x": weight(3, SIDE, seed=2)}
    wanted = run(model, feed)[0]
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    loaded = load(tmp_path / "m.onnx")
    assert len(loaded.files) == 2 and len(loaded.data) == 1
    for tensor, seed in zip(loaded.model.graph.initializer, (0, 1), strict=True):
        assert is_outside(tensor)
        np.testing.assert_array_equal(values_of(tensor), weight(*tensor.dims, seed=seed))
    np.testing.assert_array_equal(Session(loaded.model).run(feed)[0], wanted)


@pytest.mark.parametrize("name", ["uint4", "int4", "float16", "bfloat16", "int64", "uint8"])
def test_every_type_is_read(name: str, tmp_path: Path) -> None:
    kind = getattr(TensorProto, name.upper())
    values = np.random.default_rng(0).integers(-8 if name == "int4" else 0, 8, (1 << 10, 1 << 11))
    tensor = onnx.helper.make_tensor("w", kind, values.shape, values.reshape(-1).tolist(), raw=False)
    tensor = numpy_helper.from_array(numpy_helper.to_array(tensor), "w")
    (tmp_path / "w.data").write_bytes(b"0123" + tensor.raw_data)
    outside = TensorProto(name="w", data_type=kind, dims=values.shape)
    refer(outside, str(tmp_path / "w.data"), 4, len(tensor.raw_data))
    np.testing.assert_array_equal(values_of(outside).astype(np.int64), values)


@pytest.mark.parametrize("key", ["offset", "length"])
@pytest.mark.parametrize("value", ["-4", "100", "99999999999", "x", "1e3"])
def test_a_large_tensor_at_a_bad_place_is_refused(
    key: str, value: str, tmp_path: Path, output: Path, fails: Fails
) -> None:
    path = model_outside(tmp_path)
    _change(path, key, value)
    if (key, value) == ("offset", "100"):  # 100 bytes into the tensor: its end is beyond that of a shorter file
        (tmp_path / "in.data").write_bytes((tmp_path / "in.data").read_bytes()[: 4 * SIDE * SIDE])
    assert "external data cannot be read" in fails(3, path, output)


@pytest.mark.parametrize("location", ["../in.data", "/etc/passwd", "link.data", "folder"])
def test_a_large_tensor_outside_of_the_folder_is_refused(
    location: str, tmp_path: Path, output: Path, fails: Fails
) -> None:
    (tmp_path / "inside" / "folder").mkdir(parents=True)
    path = model_outside(tmp_path / "inside")
    (tmp_path / "in.data").write_bytes((tmp_path / "inside" / "in.data").read_bytes())
    (tmp_path / "inside" / "link.data").symlink_to(tmp_path / "in.data")
    _change(path, "location", location)
    assert "external data" in fails(3, path, output)


def _change(path: Path, key: str, value: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = value if entry.key == key else entry.value
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("fused", ["never", "packed"])
def test_files_are_the_same_from_one_file_and_from_two(fused: Fused, tmp_path: Path) -> None:
    path = model_outside(tmp_path)
    save(with_data(load(path).model), tmp_path / "one.onnx", False, "")
    for name in ("one", "in"):
        mq.quantize(tmp_path / f"{name}.onnx", tmp_path / f"{name}.q.onnx", bits=[4, 5], qem=50.0, fused=fused)
    first, second = (onnx.load(tmp_path / f"{name}.q.onnx") for name in ("one", "in"))
    for tensor in (*first.graph.initializer, *second.graph.initializer):
        tensor.ClearField("data_location")
    assert first == second
    assert (tmp_path / "in.q.onnx.data").exists() and not (tmp_path / "one.q.onnx.data").exists()


def test_a_model_that_is_replaced_in_place_can_still_be_told_about(tmp_path: Path) -> None:
    path = model_outside(tmp_path)
    result = mq.quantize(path, path, bits=[4], rule="paper", exclude=["v"])
    held = {t.name: t for t in result.model.graph.initializer}
    assert not is_outside(held["v"])
    np.testing.assert_array_equal(numpy_helper.to_array(held["v"]), weight(SIDE, SIDE))
    assert result.verification is not None and result.verification.codes == 1


def test_scratch_keeps_codes_and_tensors_out_of_memory(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    codes = np.random.default_rng(0).integers(0, 255, (SIDE, 5 * SIDE), np.uint8)
    kept, small = scratch.array(codes), scratch.array(codes[:2])
    assert isinstance(small.base, np.ndarray) and np.shares_memory(small, codes)
    tensor = scratch.tensor(numpy_helper.from_array(codes.T.copy(), "t"))
    assert is_outside(tensor) and place_of(tensor)[2] == codes.size and tensor.ByteSize() < 200
    for _ in range(2):
        np.testing.assert_array_equal(kept, codes)
        np.testing.assert_array_equal(values_of(tensor), codes.T)
        release(kept)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="read-only"):
        kept[0, 0] = 1
