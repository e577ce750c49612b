"""The rule on its floor, and the network on its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from cases import text, weight
from onnx import ModelProto
from threadpoolctl import threadpool_info

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.numerics.granularity import Granularity
from mixquant_onnx.numerics.scheme import QuantizedTensor, Scheme
from mixquant_onnx.planning import output_floor as safety
from mixquant_onnx.planning.allocators import qem, safe
from mixquant_onnx.planning.error_table import Candidate, ErrorRow
from mixquant_onnx.planning.output_floor import FLOOR_DB
from mixquant_onnx.quantization import network
from mixquant_onnx.quantization.weight import quantize_weight

CHANNEL = Granularity(per="channel")


def errors(name: str, elements: int, power: float, baseline: float, at_8_bits: float) -> ErrorRow:
    """Candidates whose QE grows by 4 for each bit less."""
    cells = tuple(
        Candidate(scheme=Scheme(bits=b, grid=CHANNEL), qe=at_8_bits * 4.0 ** (8 - b), nbytes=elements * b // 8)
        for b in range(2, 9)
    )
    return ErrorRow(site=name, elements=elements, power=power, baseline=baseline, candidates=cells)


def test_a_tensor_whose_int8_grid_is_poor_keeps_the_floor() -> None:
    poor = errors("poor", 100_000, 1.0, baseline=0.03, at_8_bits=1e-4)
    assert qem.choose(poor, 2).bits == 4
    chosen = safe.choose(poor, 2)
    assert chosen.scheme.bits == 6 and 10 * np.log10(1 / chosen.qe) >= safe.LEAST_SQNR_DB


def test_the_most_bits_where_even_those_are_poor() -> None:
    assert safe.choose(errors("ruined", 1000, 1.0, baseline=0.9, at_8_bits=0.1), 2).scheme.bits == 8


def test_a_good_tensor_gets_what_the_rule_gives() -> None:
    good = errors("good", 100_000, 1.0, baseline=1e-4, at_8_bits=2e-5)
    for factor in (1, 2, 4, 16):
        assert safe.choose(good, factor).scheme == qem.choose(good, factor)


def test_small_tensors_get_the_most_bits_within_one_per_cent() -> None:
    table = {
        name: errors(name, size, 1.0, baseline=1e-4, at_8_bits=2e-5)
        for name, size in (("large", 1_000_000), ("small", 9_000), ("middle", 400_000))
    }
    chosen = safe.allocate(table, 2)
    plain = qem.allocate(table, 2)
    assert chosen["small"].bits == 8 > plain["small"].bits
    assert {n: chosen[n] for n in ("large", "middle")} == {n: plain[n] for n in ("large", "middle")}


def correlated(rows: int = 256) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"x": (random.standard_normal((rows, 8)) @ random.standard_normal((8, 96))).astype(np.float32)}


def layer() -> ModelProto:
    """With one weight that widens the range, so that int8 is no better than 6 bits with a scale for each channel."""
    w = weight(96, 128)
    w[5, 7] = 1.2
    return text("g (float[N,96] x, float[96,128] w) => (float[N,128] y) { y = MatMul (x, w) }", w=w)


def test_calibrated_weights_keep_the_rule_too() -> None:
    paper = mq.quantize(layer(), data=correlated(), rule="paper")
    broken = paper.qe["w"] > 2 * paper.table["w"].baseline
    assert broken, "the case must be one in which calibration breaks the rule"
    kept = mq.quantize(layer(), data=correlated())
    assert kept.qe["w"] <= safe.limit_of(kept.table["w"], 2)
    assert kept.plan.sites["w"].bits == paper.plan.sites["w"].bits + 1
    assert kept.verification is not None and kept.verification.deployed is not None


def test_a_plan_of_widened_weights_is_replayed() -> None:
    made = mq.quantize(layer(), data=correlated())
    again = mq.apply_plan(layer(), made.plan, data=correlated())
    assert again.model.SerializeToString() == made.model.SerializeToString()


def deep(layers: int) -> ModelProto:
    """Convolutions that add up their errors."""
    body = "".join(f" c{k} = Conv <pads=[1,1,1,1]> (r{k}, w{k}) r{k + 1} = Relu (c{k})" for k in range(layers))
    inputs = ", ".join(f"float[{16},{16 if k else 3},3,3] w{k}" for k in range(layers))
    weights: dict[str, Any] = {f"w{k}": weight(16, 16 if k else 3, 3, 3, seed=k) * 4 for k in range(layers)}
    model = f"g (float[N,3,16,16] r0, {inputs}) => (float[N,16,16,16] r{layers}) {{{body} }}"
    return text(model, **weights)


def test_outputs_below_the_floor_get_more_bits_and_the_run_says_so() -> None:
    low = mq.quantize(deep(8), bits=[2, 3, 4, 5, 6, 7, 8], qem=1e6, rule="paper")
    assert low.verification is not None and low.verification.deployed is not None
    assert (low.verification.deployed.sqnr_db or 0) < FLOOR_DB
    held = mq.quantize(deep(8), qem=1e6)
    assert held.verification is not None and held.verification.deployed is not None
    assert (held.verification.deployed.sqnr_db or 0) >= FLOOR_DB - 1
    assert held.nbytes_after < held.nbytes_before


@pytest.mark.parametrize("rule", ["safe", "paper"])
def test_the_plan_says_which_rule(rule: Literal["safe", "paper"]) -> None:
    made = mq.inspect(layer(), rule=rule)
    assert made.plan.allocator == {"safe": "safe", "paper": "qem"}[rule]


def test_blas_has_one_thread_while_weights_are_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    plain = quantize_weight

    def recorded(*given: Any) -> QuantizedTensor:
        threads.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return plain(*given)

    monkeypatch.setattr(network, "quantize_weight", recorded)
    before = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    mq.quantize(layer(), data=correlated())
    assert threads and set(threads) == {1}
    assert [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"] == before


def test_the_note_counts_the_weights_with_more_bits_than_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a floor for tensors so low that outputs need two turns."""
    monkeypatch.setattr(safe, "LEAST_SQNR_DB", 3.0)
    monkeypatch.setattr(safety, "_MARGIN", 1.5)
    planned = mq.inspect(deep(6), qem=1e6, rounding="nearest", method="minmax")
    held = mq.quantize(deep(6), qem=1e6, rounding="nearest", method="minmax")
    more = sum(scheme != planned.plan.sites[name] for name, scheme in held.plan.sites.items())
    told = [int(found[1]) for note in held.notes if (found := re.search(r"(\d+) weights? got more bits, which", note))]
    assert told == [more] and more > 0


@pytest.mark.parametrize("options", [{}, {"rounding": "nearest", "method": "minmax"}], ids=str)
def test_the_file_is_the_same_without_proof(options: dict[str, Any]) -> None:
    proved = mq.quantize(deep(8), qem=1e6, **options)
    assert mq.quantize(deep(8), qem=1e6, verify=False, **options).model == proved.model


@pytest.mark.parametrize("effort", ["normal", "thorough"])
def test_a_sweep_tells_the_bits_that_outputs_need(effort: str, tmp_path: Path) -> None:
    """Those of the file, where the plan is finished; else those that the plan needs as it is put together."""
    onnx.save(deep(8), tmp_path / "deep.onnx")
    arguments = ["sweep", str(tmp_path / "deep.onnx"), "--qem", "1000000", "--json", str(tmp_path / "sweep.json")]
    assert main([*arguments, "--effort", effort]) == 0
    point = json.loads((tmp_path / "sweep.json").read_text())["points"][0]
    made = mq.quantize(deep(8), qem=1e6)
    assert made.plan.sites != mq.inspect(deep(8), qem=1e6).plan.sites
    assert point["average_bits"] == pytest.approx(made.average_bits, rel=1e-6 if effort == "thorough" else 0.1)
    assert point["finished"] == (effort == "thorough") and point["sqnr_db"] >= FLOOR_DB - 1
