"""What an input is taken for: masks, caches, lengths, times, latents, points, and shapes that belong together."""

from __future__ import annotations

import time

import numpy as np
import onnxruntime
import pytest
from cases import Array, text, weight
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mixquant_onnx.data.proxies.build import proxy_data
from mixquant_onnx.data.proxies.roles import roles_of
from mixquant_onnx.data.work import multiplications
from mixquant_onnx.runtime.session import Session


def first_feed(model: ModelProto) -> dict[str, Array]:
    found = proxy_data(model, Session(model))
    assert found is not None
    return dict(found.feeds[0])


def kinds(model: ModelProto) -> dict[str, str]:
    return {role.input.name: role.kind for role in roles_of(model)}


def declared(**inputs: tuple[str, list[int | str]]) -> ModelProto:
    """A model that only names its inputs."""
    types = {"float": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
    given = [helper.make_tensor_value_info(name, types[kind], dims) for name, (kind, dims) in inputs.items()]
    return helper.make_model(helper.make_graph([], "g", given, []))


@pytest.mark.parametrize(
    ("name", "kind", "dims", "expected"),
    [
        ("mask", "float", ["N", 1, 64, 64], "region"),
        ("attention_mask", "float", ["N", "T"], "mask"),
        ("padding_mask", "bool", ["N", "T"], "zeros"),
        ("attention_mask", "bool", ["N", "T"], "mask"),
        ("use_cache_branch", "bool", [1], "zeros"),
        ("latent_sample", "float", ["N", 4, "h", "w"], "values"),
        ("image", "float", ["N", 4, "h", "w"], "picture"),
        ("timestep", "int64", ["N"], "time"),
        ("timestep", "float", [], "time"),
        ("scales", "float", [3], "constant"),
        ("features", "float", [24], "values"),
        ("im_shape", "float", ["N", 2], "side"),
        ("mel", "float", ["N", 1, 80, "T"], "frames"),
        ("points", "float", ["batch", "P", 3], "frames"),
        ("image", "float", ["height", "width", 3], "picture"),
        ("point_labels", "float", [1, "P"], "values"),
    ],
)
def test_kinds(name: str, kind: str, dims: list[int | str], expected: str) -> None:
    assert kinds(declared(**{name: (kind, dims)})) == {name: expected}


def test_a_mask_of_a_picture_is_zero_and_one() -> None:
    model = text("g (float[N,3,32,32] image, float[N,1,32,32] mask, float[8,4,3,3] w) => (float[N,8,30,30] y) "
                 "{ x = Concat <axis=1> (image, mask) y = Conv (x, w) }", w=weight(8, 4, 3, 3))  # fmt: skip
    mask = first_feed(model)["mask"]
    assert set(np.unique(mask)) == {0, 1} and 0.1 < mask.mean() < 0.5


def test_several_pictures_of_a_row_differ() -> None:
    model = text("g (float[N,3,32,32] a, float[N,3,32,32] b, float[8,3,3,3] w) => (float[N,8,30,30] y) "
                 "{ d = Sub (a, b) y = Conv (d, w) }", w=weight(8, 3, 3, 3))  # fmt: skip
    made = first_feed(model)
    assert not np.array_equal(made["a"], made["b"])


def test_samples_of_16_bits_are_sounds() -> None:
    model = text("g (int16[N,samples] audio, float[8,1,9] w) => (float[N,8,t] y) "
                 "{ f = Cast <to=1> (audio) a = Constant <value_ints=[1]> () x = Unsqueeze (f, a) y = Conv (x, w) }",
                 w=weight(8, 1, 9))  # fmt: skip
    made = first_feed(model)["audio"]
    assert made.dtype == np.int16 and np.abs(made.astype(int)).max() > 1000


def test_a_cache_is_empty_at_the_first_token() -> None:
    model = text("g (int64[N,T] ids, int64[N,total] attention_mask, float[N,4,past,4] past, float[500,16] table) => "
                 "(float[N,4,tt,4] present, float[N,T] y) "
                 "{ e = Gather (table, ids) s = Constant <value_ints=[0,0,4,4]> () h = Reshape (e, s) "
                 "k = Transpose <perm=[0,2,1,3]> (h) c = Concat <axis=2> (past, k) "
                 "a = Constant <value_ints=[1,3]> () m = Cast <to=1> (attention_mask) u = Unsqueeze (m, a) "
                 "present = Mul (c, u) y = ReduceMean <axes=[2], keepdims=0> (e) }", table=weight(500, 16))  # fmt: skip
    made = first_feed(model)
    assert made["past"].shape == (4, 4, 0, 4) and made["ids"].shape == made["attention_mask"].shape == (4, 64)


def test_a_length_is_given_for_each_row_and_dimensions_of_one_name_are_alike() -> None:
    model = text("g (int64[N,T] ids, int64[N] lengths, float[N,P] labels, float[N,P,2] points, float[90,8] table) => "
                 "(float[N,T,8] y) "
                 "{ e = Gather (table, ids) a = Constant <value_ints=[1,2]> () f = Cast <to=1> (lengths) "
                 "u = Unsqueeze (f, a) b = Constant <value_ints=[2]> () l = Unsqueeze (labels, b) p = Mul (points, l) "
                 "q = ReduceMean <axes=[1,2], keepdims=0> (p) v = Unsqueeze (q, a) d = Div (e, u) y = Add (d, v) }",
                 table=weight(90, 8))  # fmt: skip
    made = first_feed(model)
    assert made["lengths"].tolist() == [64] * 4 and made["labels"].shape == made["points"].shape[:2]


def test_scalars_have_no_dimension() -> None:
    model = text("g (float[N,3,32,32] x, float[] confidence, float[8,3,3,3] w) => (float[N,8,30,30] y) "
                 "{ c = Conv (x, w) y = Sub (c, confidence) }", w=weight(8, 3, 3, 3))  # fmt: skip
    declared_scalar = model.graph.input[1].type.tensor_type
    declared_scalar.shape.SetInParent()
    made = first_feed(model)
    assert made["confidence"].shape == () and made["x"].shape[0] == 4


@pytest.mark.parametrize(
    ("body", "limit"),
    [("p = Constant <value = int64[1] {1}> () q = Equal (ids, p) e = Gather (table, ids)", 500),
     ("t = Cast <to=1> (table) e = Gather (t, ids)", 500),
     ("e = Gather <axis=1> (table, ids)", 16)],
)  # fmt: skip
def test_ids_are_below_the_table_that_they_look_into(body: str, limit: int) -> None:
    model = text(f"g (int64[N,T] ids, float[500,16] table) => (float[N,T,16] e) {{ {body} }}", table=weight(500, 16))
    assert roles_of(model)[0].limit == limit


def test_a_first_convolution_tells_the_number_of_colours() -> None:
    model = text("g (float[N,C,H,W] x, float[8,1,3,3] w) => (float[N,8,h,w0] y) { y = Conv (x, w) }",
                 w=weight(8, 1, 3, 3))  # fmt: skip
    assert first_feed(model)["x"].shape == (4, 1, 224, 224)


def test_bytes_may_be_ids() -> None:
    model = text("g (uint8[N,T] x, float[256,16] table) => (float[N,T,16] y) "
                 "{ i = Cast <to=7> (x) y = Gather (table, i) }",
                 table=weight(256, 16))  # fmt: skip
    assert np.isin(first_feed(model)["x"], [9, 10, *range(32, 127)]).all()


def test_a_fixed_batch_counts_as_its_rows() -> None:
    model = text("g (float[8,3,32,32] x, float[8,3,3,3] w) => (float[8,8,30,30] y) { y = Conv (x, w) }",
                 w=weight(8, 3, 3, 3))  # fmt: skip
    found = proxy_data(model, Session(model))
    assert found is not None and len(found.feeds) == 6
    assert len({row.tobytes() for feed in found.feeds for row in feed["x"]}) == 48


def test_rows_on_which_the_model_gives_nan_are_left_out() -> None:
    """It takes the root of a mean that is positive for the first row and not for all."""
    model = text("g (float[1,3,32,32] x, float[8,3,3,3] w) => (float[1,8,30,30] y) "
                 "{ m = ReduceMean <keepdims=0> (x) r = Sqrt (m) c = Conv (x, w) y = Add (c, r) }",
                 w=weight(8, 3, 3, 3))  # fmt: skip
    session = Session(model)
    found = proxy_data(model, session)
    assert found is not None and 0 < found.rows < 48
    assert not any(np.isnan(session.run(feed)[0]).any() for feed in found.feeds)


def test_dimensions_without_a_size_do_not_multiply_to_memory() -> None:
    model = text("g (float[a,b,c,d,e,f] x, int64[N,T] ids, float[500,16] table) => (float[N,T,16] y) "
                 "{ g0 = Gather (table, ids) m = ReduceMean <keepdims=0> (x) y = Add (g0, m) }",
                 table=weight(500, 16))  # fmt: skip
    assert first_feed(model)["x"].size <= 1 << 24


def test_a_normalization_without_variance_tells_nothing(recwarn: pytest.WarningsRecorder) -> None:
    none = np.zeros(8, np.float32)
    model = text("g (float[N,3,32,32] x, float[8,3,3,3] w, float[8] s, float[8] b, float[8] m, float[8] v) => "
                 "(float[N,8,30,30] y) { c = Conv (x, w) y = BatchNormalization (c, s, b, m, v) }",
                 w=weight(8, 3, 3, 3), s=none + 1, b=none, m=none, v=none)  # fmt: skip
    first_feed(model)
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_work_is_counted_by_shapes() -> None:
    model = text("g (float[N,3,H,W] x, float[8,3,3,3] w, float[5,7] u, float[N,5] z) => "
                 "(float[N,8,h,w0] y, float[N,7] q) { y = Conv (x, w) q = MatMul (z, u) }",
                 w=weight(8, 3, 3, 3), u=weight(5, 7))  # fmt: skip
    assert multiplications(model, {"x": (2, 3, 12, 22), "z": (2, 5)}) == 2 * 8 * 10 * 20 * 27 + 2 * 5 * 7


def test_how_many_rows_there_are_does_not_hang_on_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = text("g (float[1,3,32,32] x, float[8,3,3,3] w) => (float[1,8,30,30] y) { y = Conv (x, w) }",
                 w=weight(8, 3, 3, 3))  # fmt: skip
    clock = iter(range(0, 10**6, 10))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    found = proxy_data(model, Session(model))
    assert found is not None and found.rows == 48


def test_statistics_look_at_some_places_of_a_large_picture() -> None:
    """Whole values in float64 took 3 GB and a minute at 1024 x 1024."""
    from mixquant_onnx.data.proxies.value_ranges import _some

    some = _some(np.arange(2 * 480 * 960 * 3, dtype=np.float32).reshape(2, 480, 960, 3))
    assert some.shape[1] == 3 and 1000 < some.shape[0] <= 2 * 49 * 49
    assert numpy_helper.from_array(some).ByteSize() < 1 << 20


def test_random_operators_give_the_same_rows_in_every_process() -> None:
    model = text("g (float[N,4] x) => (float[N,4] y) { n = RandomNormalLike (x) y = Add (x, n) }")
    made = []
    for seed in (1, 2):  # as the clock gives one to each process
        onnxruntime.set_seed(seed)
        made.append(Session(model).run({"x": np.zeros((2, 4), np.float32)})[0])
    assert np.array_equal(*made) and made[0].any()
