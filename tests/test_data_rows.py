"""What a row of a feed is, found out by running models whose dimensions have any names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Array, text, weight
from onnx import ModelProto

from mixquant_onnx.data.dataset import Axes
from mixquant_onnx.data.rows import find_axes
from mixquant_onnx.runtime.session import Session

RANDOM = np.random.default_rng(0)


def values(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


def axes_of(model: ModelProto, *feeds: dict[str, Any]) -> Axes | None:
    return find_axes(Session(model), feeds)


def linear(first: str, last: str) -> ModelProto:
    return text(f"g (float[{first},7] x, float[7,4] w) => (float[{last},4] y) {{ y = MatMul (x, w) }}", w=weight(7, 4))


@pytest.mark.parametrize("last", ["n", "other", "rows"])
def test_rows_are_found_whatever_dimensions_are_called(last: str) -> None:
    assert axes_of(linear("n", last), {"x": values(20, 7)}) == {"x": 0}


def test_a_state_may_have_its_batch_on_another_axis_and_a_scalar_is_shared() -> None:
    model = text(
        """g (float[a,8] x, float[2,b,4] state, int64 rate, float[8,4] w) => (float[c,4] y, float[d,e,4] next)
        { h = MatMul (x, w) r = Cast <to = 1> (rate) s = Add (state, h) next = Mul (s, r) y = ReduceMax <axes = [0],
          keepdims = 0> (next) }""", w=weight(8, 4),
    )  # fmt: skip
    feed = {"x": values(9, 8), "state": values(2, 9, 4), "rate": np.array(2)}
    assert axes_of(model, feed) == {"x": 0, "state": 1}
    assert axes_of(model, {**feed, "state": values(2, 8, 4)}) is None


def recurrent() -> ModelProto:
    return text(
        """g (float[t,n,3] x, float[1,20,3] w, float[1,20,5] r) => (float[t,1,n,5] y)
        { y = LSTM <hidden_size = 5> (x, w, r) }""", w=weight(1, 20, 3), r=weight(1, 20, 5),
    )  # fmt: skip


def test_the_batch_of_a_time_major_model_is_its_second_axis() -> None:
    assert axes_of(recurrent(), {"x": values(6, 5, 3)}) == {"x": 1}
    assert axes_of(recurrent(), {"x": values(5, 5, 3)}) == {"x": 1}


@pytest.mark.parametrize(
    "body",
    ["m = ReduceMean <axes = [0], keepdims = 1> (h) s = Mul (m, c) y = Add (h, s)", "y = Softmax <axis = 0> (h)",
     "t = Constant <value = int64 {0}> () y = CumSum (h, t)"],
)  # fmt: skip
def test_rows_that_depend_on_each_other_are_not_told_apart(body: str) -> None:
    """A mean over the batch that counts for a tenth is enough."""
    model = text(
        f"g (float[n,7] x, float[7,4] w, float c) => (float[n,4] y) {{ h = MatMul (x, w) {body} }}",
        w=weight(7, 4), c=np.array(0.1, np.float32),
    )  # fmt: skip
    assert axes_of(model, {"x": values(20, 7)}) is None


def test_a_random_model_is_judged_by_shapes() -> None:
    body = "h = MatMul (x, w) r = RandomNormalLike (h) y = Add (h, r)"
    model = text(f"g (float[n,7] x, float[7,4] w) => (float[m,4] y) {{ {body} }}", w=weight(7, 4))
    assert axes_of(model, {"x": values(20, 7)}) == {"x": 0}
    body += " z = ReduceSum <keepdims = 0> (y)"
    model = text(f"g (float[n,7] x, float[7,4] w) => (float[m,4] y, float z) {{ {body} }}", w=weight(7, 4))
    assert axes_of(model, {"x": values(20, 7)}) is None


def test_one_sample_is_one_row_however_its_positions_are_treated() -> None:
    model = text("g (float[n,t,7] x, float[7,4] w) => (float[n,t,4] y) { y = MatMul (x, w) }", w=weight(7, 4))
    assert axes_of(model, {"x": values(1, 20, 7)}) is None
    assert axes_of(model, {"x": values(1, 20, 7)}, {"x": values(3, 11, 7)}) == {"x": 0}


def test_a_fixed_batch_is_not_cut() -> None:
    assert axes_of(linear("6", "6"), {"x": values(6, 7)}) is None


def test_a_model_that_treats_one_row_otherwise_is_not_cut() -> None:
    model = text(
        "g (float[n,7] x, float[7,4] w) => (float[m,4] y) { h = MatMul (x, w) y = Squeeze (h) }", w=weight(7, 4)
    )
    assert axes_of(model, {"x": values(20, 7)}) is None


def test_an_input_with_as_many_rows_by_chance_is_shared() -> None:
    model = text("g (float[n,8] x, float[8,k] table) => (float[n,k] y) { y = MatMul (x, table) }")
    assert axes_of(model, {"x": values(8, 8), "table": values(8, 8)}) == {"x": 0}


def test_rows_in_maps_strings_and_several_outputs_are_found() -> None:
    model = text(
        """g (string[n] name, float[a,7] x, float[7,3] w) => (string[b] same, float[c,3] p, seq(map(int64, float)) z)
        { same = Identity (name) h = MatMul (x, w) p = Softmax (h)
          z = ai.onnx.ml.ZipMap <classlabels_int64s = [4, 5, 6]> (p) }""", imports=', "ai.onnx.ml" : 1', w=weight(7, 3),
    )  # fmt: skip
    feed = {"name": np.array([f"row {k}" for k in range(9)], object), "x": values(9, 7)}
    assert axes_of(model, feed) == {"name": 0, "x": 0}


def test_it_costs_the_time_of_a_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    plain = Session.run

    def counted(self: Session, feed: Any, outputs: Any = None) -> list[Any]:
        ran.append(len(feed["x"]))
        return plain(self, feed, outputs)

    monkeypatch.setattr(Session, "run", counted)
    assert axes_of(linear("n", "m"), {"x": values(3, 7)}, {"x": values(500, 7)}) == {"x": 0}
    assert sum(ran) <= 8


def test_feeds_whose_inputs_have_other_numbers_of_rows_are_not_cut() -> None:
    model = text("g (float[a,4] x, float[b,4] z) => (float[c,4] y) { y = Add (x, z) }")
    assert axes_of(model, {"x": values(6, 4), "z": values(6, 4)}) == {"x": 0, "z": 0}
    assert axes_of(model, {"x": values(6, 4), "z": values(6, 4)}, {"x": values(5, 4), "z": values(1, 4)}) is None
