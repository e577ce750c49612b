"""One more encoding is a file and a row of its target's table, one more runtime target a file and a row of TARGETS."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from cases import Array, agreement, classifier, ops, run, weight
from onnx import ModelProto, numpy_helper

import mixquant_onnx as mq
from mixquant_onnx.export.encodings import folded
from mixquant_onnx.export.encodings.builder import Builder, Encoded, FreshName
from mixquant_onnx.export.encodings.dequantize_linear import DequantizeLinear
from mixquant_onnx.export.encodings.folded import Folded
from mixquant_onnx.export.encodings.matmul_nbits import Kernel, MatMulNBits
from mixquant_onnx.export.encodings.storage import NEVER, Release, Storage, at_opset
from mixquant_onnx.export.targets import ort
from mixquant_onnx.export.targets.releases import Releases
from mixquant_onnx.export.targets.table import TARGETS, target_named
from mixquant_onnx.export.weight_in_model import WeightInModel
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.report.inputs import Run
from mixquant_onnx.report.summary import summarize

PLAIN: dict[str, Any] = {
    "method": "minmax",
    "rounding": "nearest",
    "data_free": True,
    "bits": [8],
    "rule": "paper",
    "qem": 1e9,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Codebook(Storage):
    """Codes of a weight as indices into a table of the values that they stand for."""

    @property
    def name(self) -> str:
        return "codebook"

    def encode(self, q: QuantizedTensor, output: str, opset: int, fresh: FreshName) -> Encoded:
        builder = Builder(q, output, opset, fresh)
        levels = (np.arange(1 << q.scheme.bits, dtype=np.float32) - q.zero_point.reshape(-1)) * q.scale.reshape(-1)
        codes, table = builder.store("codes", q.codes, counted=True), builder.store("levels", levels, counted=True)
        index, value = fresh(f"{output}.index"), builder.float32_name()
        builder.node("Cast", [codes], index, "cast_codes", to=6)
        builder.node("Gather", [table, index], value, "look_up", axis=0)
        return builder.finish(value)

    def loads_from(self, opset: int) -> Release:
        return (1, 22)


def codebook(weight: WeightInModel) -> Codebook | None:
    return Codebook(bits=weight.scheme.bits) if weight.scheme.grid.per == "tensor" else None


class Embedded:
    """A runtime that reads models from opset 15 on, and has no fused kernels."""

    def storages_for(self, weight: WeightInModel) -> list[Storage]:
        return [codebook(weight) or folded.offer(weight), folded.offer(weight)]

    def opsets(self, storages: Collection[Storage], smaller_at: Callable[[int], bool]) -> list[int]:
        return [15, 7]

    def oldest_runtime(self, storages: Collection[Storage], opset: int) -> Releases:
        return Releases(loads_from=f"embedded {opset}", not_slower_from=f"embedded {len(storages)}")


def stored(model: ModelProto) -> Mapping[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def check_codebooks(result: mq.RunResult) -> None:
    """Both weights are codebooks, close to float, and ONNX Runtime computes what NumPy does with them."""
    assert result.rewritten.forms == {"v": "codebook", "w": "codebook"}
    held = stored(result.model)
    v, w = (held[f"{name}.levels"][held[f"{name}.codes"]] for name in "vw")
    for name, (found, wanted) in {"v": (v, weight(64, 64)), "w": (w, weight(64, 10))}.items():
        step = (wanted.max() - wanted.min()) / 255
        assert np.abs(found - wanted).max() < 0.6 * step, name
        assert result.rewritten.nbytes[name] == wanted.size + 4 * 256
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    np.testing.assert_allclose(run(result.model, {"x": x})[0], x @ v @ w, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("stored_at_a_loss")
def test_an_encoding_is_a_row_of_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "ENCODINGS", (codebook, *ort.ENCODINGS))
    result = mq.quantize(classifier(), granularity="tensor", **PLAIN)
    check_codebooks(result)
    assert "Gather" in ops(result.model) and not result.model.functions
    others = mq.quantize(classifier(), granularity="channel", **PLAIN)
    assert set(others.rewritten.forms.values()) == {"folded"}
    planned = mq.inspect(classifier(), granularity="tensor", **PLAIN)
    assert summarize(Run(planned=planned, result=result))["releases"] == {
        "loads_from": "1.22",
        "not_slower_from": "1.22",
    }


@pytest.mark.usefixtures("stored_at_a_loss")
def test_a_target_is_a_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier()
    model.opset_import[0].version = 13
    with pytest.raises(mq.OptionError, match="target 'embedded' is not known; use ort or qdq"):
        mq.quantize(model, target="embedded", **PLAIN)
    monkeypatch.setitem(TARGETS, "embedded", Embedded())
    result = mq.quantize(model, target="embedded", granularity="tensor", **PLAIN)
    check_codebooks(result)
    assert result.rewritten.opset == (13, 15)
    planned = mq.inspect(model, target="embedded", granularity="tensor", **PLAIN)
    summary = summarize(Run(planned=planned, result=result))
    assert summary["releases"] == {"loads_from": "embedded 15", "not_slower_from": "embedded 2"}
    channels = mq.quantize(model, target="embedded", granularity="channel", **PLAIN)
    assert set(channels.rewritten.forms.values()) == {"folded"} and agreement(model, channels.model) > 35


FIVE, WIDE = Folded(bits=5), Folded(bits=5, small_ints=False)
KERNEL = MatMulNBits(bits=3, kernel=Kernel(bits=4, block=32))
RELEASES: dict[str, tuple[str, list[Storage], int, Releases]] = {
    "nothing": ("ort", [], 17, Releases(loads_from="1.20", not_slower_from="1.20")),
    "8 bits": ("ort", [Folded(bits=8)], 17, Releases(loads_from="1.20", not_slower_from="1.20")),
    "5 bits": ("ort", [FIVE], 17, Releases(loads_from="1.21", not_slower_from="1.21")),
    "5 bits, opset 13": ("ort", [FIVE], 13, Releases(loads_from="1.20", not_slower_from="1.20")),
    "5 bits, wide": ("ort", [WIDE], 17, Releases(loads_from="1.20", not_slower_from="1.20")),
    "opset 24": ("ort", [FIVE], 24, Releases(loads_from="1.24", not_slower_from="1.24")),
    "kernel": ("ort", [FIVE, KERNEL], 21, Releases(loads_from="1.23", not_slower_from="1.25")),
    "kernel of 8 bits": (
        "ort", [MatMulNBits(bits=8, kernel=Kernel(bits=8, block=32), many_rows=True)], 21,
        Releases(loads_from="1.20", not_slower_from="1.25 (with VNNI)"),
    ),
    "qdq": (
        "qdq", [DequantizeLinear(bits=4), Folded(bits=8)], 21,
        Releases(loads_from="1.21", not_slower_from="no release (--target qdq)"),
    ),
    "qdq, folded": ("qdq", [FIVE], 14, Releases(loads_from="1.21", not_slower_from="1.21")),
}  # fmt: skip


@pytest.mark.parametrize("case", RELEASES)
def test_the_oldest_releases_follow_from_the_storages(case: str) -> None:
    target, storages, opset, wanted = RELEASES[case]
    assert target_named(target).oldest_runtime(storages, opset) == wanted


def test_the_first_storage_that_the_opset_has_is_taken() -> None:
    never = DequantizeLinear(bits=5, needs=NEVER)
    assert [at_opset([never, KERNEL, FIVE], opset) for opset in (6, 7, 20, 21, 25)] == [
        FIVE,
        FIVE,
        FIVE,
        KERNEL,
        KERNEL,
    ]


@pytest.mark.parametrize("smaller", [True, False])
def test_opset_14_is_asked_for_where_the_file_shrinks_by_it(smaller: bool) -> None:
    storages = [Folded(bits=5, opset=14)]
    asked: list[int] = []

    def smaller_at(opset: int) -> bool:
        asked.append(opset)
        return smaller

    assert ort.opsets(storages, smaller_at) == ([14, 7] if smaller else [7])
    assert asked == [14]
    assert ort.opsets([Folded(bits=8), KERNEL], smaller_at) == [21, 7] and asked == [14]
    assert target_named("qdq").opsets(storages, lambda opset: False) == [14, 7]
