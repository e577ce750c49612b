"""The MixQuant rule for one weight: the order of candidates, the limit, and what is taken where none qualifies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mixquant_onnx as mq
from mixquant_onnx import run
from mixquant_onnx.config.config import config_of
from mixquant_onnx.model.files import load
from mixquant_onnx.numerics.granularity import Granularity
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocators import qem, safe
from mixquant_onnx.planning.error_table import Candidate, ErrorRow

CHANNEL, BLOCKS = Granularity(per="channel"), Granularity(per="block", block=32)


def cell(bits: int, qe: float, nbytes: int, grid: Granularity = CHANNEL) -> Candidate:
    return Candidate(scheme=Scheme(bits=bits, grid=grid), qe=qe, nbytes=nbytes)


def errors(*cells: Candidate, baseline: float = 1.0, power: float = 1e6, elements: int = 100) -> ErrorRow:
    return ErrorRow(site="w", elements=elements, power=power, baseline=baseline, candidates=cells)


def test_the_fewest_bytes_that_qualify_whatever_the_order_of_the_table() -> None:
    cells = [cell(8, 0.1, 80), cell(4, 1.9, 40), cell(6, 1.0, 60), cell(2, 9.0, 20)]
    for order in (cells, cells[::-1]):
        assert qem.choose(errors(*order), 2).bits == 4
        assert safe.choose(errors(*order), 2).scheme.bits == 4


def test_bytes_decide_between_granularities_and_bits_where_bytes_are_equal() -> None:
    blocks, channel = cell(4, 1.5, 50, BLOCKS), cell(5, 1.5, 45)
    assert qem.choose(errors(blocks, channel), 2) == channel.scheme
    equal = cell(3, 1.5, 45, BLOCKS)
    for order in ((channel, equal), (equal, channel)):
        assert qem.choose(errors(*order), 2) == equal.scheme
        assert safe.choose(errors(*order), 2) == equal


def test_an_error_at_the_limit_qualifies() -> None:
    both = errors(cell(4, 6.0, 40), cell(5, 0.5, 50), baseline=3.0)
    assert qem.choose(both, 2).bits == safe.choose(both, 2).scheme.bits == 4
    assert qem.choose(both, 1.99).bits == safe.choose(both, 1.99).scheme.bits == 5


def test_without_a_candidate_within_the_limit_one_granularity_takes_the_most_bits() -> None:
    """As in the paper, whatever the errors; on its floor the rule takes the least error."""
    rising = errors(cell(7, 3.0, 70), cell(8, 5.0, 80), cell(6, 9.0, 60))
    assert qem.choose(rising, 2).bits == 8
    assert safe.choose(rising, 2).scheme.bits == 7


def test_without_a_candidate_within_the_limit_several_granularities_take_the_least_error() -> None:
    low = errors(cell(8, 5.0, 80), cell(8, 3.0, 90, BLOCKS), cell(7, 4.0, 95, BLOCKS))
    for rule in (qem.choose(low, 2), safe.choose(low, 2).scheme):
        assert rule == Scheme(bits=8, grid=BLOCKS)


def test_of_equal_errors_beyond_the_limit_the_paper_takes_the_most_bytes_and_the_floor_the_fewest() -> None:
    equal = errors(cell(8, 5.0, 80), cell(8, 5.0, 90, BLOCKS))
    assert qem.choose(equal, 2).grid == BLOCKS
    assert safe.choose(equal, 2).scheme.grid == CHANNEL


def test_every_weight_of_a_table_is_chosen_for_on_its_own() -> None:
    table = {"a": errors(cell(2, 1.0, 20), cell(8, 0.1, 80)), "b": errors(cell(2, 3.0, 20), cell(8, 0.1, 80))}
    assert {name: scheme.bits for name, scheme in qem.allocate(table, 2).items()} == {"a": 2, "b": 8}


def test_the_limit_of_the_floor_is_the_lower_of_both() -> None:
    of_power = 10 ** (-safe.LEAST_SQNR_DB / 10)
    assert safe.limit_of(errors(baseline=1.0, power=1.0), 2) == pytest.approx(of_power)
    assert safe.limit_of(errors(baseline=1e-4, power=1.0), 2) == pytest.approx(2e-4)


def small(elements: int, low: tuple[float, int], high: tuple[float, int]) -> ErrorRow:
    """Candidates of 4 and 8 bits, each (QE, bytes); the first qualifies."""
    return errors(cell(4, *low), cell(8, *high), elements=elements)


def test_the_smallest_weights_get_the_most_bits_one_after_another_until_one_per_cent_is_spent() -> None:
    table = {
        "large": small(9000, (1.0, 10_000), (0.1, 20_000)),
        "third": small(30, (1.0, 30), (0.1, 60)),
        "second": small(20, (1.0, 20), (0.1, 90)),
        "first": small(10, (1.0, 10), (0.1, 20)),
    }
    # One per cent of 10,060 bytes is 100: 10 more for the first, 70 for the second, no more for the third.
    bits = {name: scheme.bits for name, scheme in safe.allocate(table, 2).items()}
    assert bits == {"first": 8, "second": 8, "third": 4, "large": 4}
    table["large"] = small(9000, (1.0, 10_940), (0.1, 20_000))
    assert safe.allocate(table, 2)["third"].bits == 8, "110 bytes are one per cent of 11,000 and just enough"


def test_more_bits_that_are_no_better_are_not_taken() -> None:
    table = {
        "large": small(9000, (1.0, 10_000), (0.1, 20_000)),
        "no better": small(10, (1.0, 10), (1.0, 20)),
        "better": small(20, (1.0, 20), (0.1, 40)),
    }
    bits = {name: scheme.bits for name, scheme in safe.allocate(table, 2).items()}
    assert bits == {"large": 4, "no better": 4, "better": 8}


def test_weights_of_one_size_go_by_name() -> None:
    def table(*names: str) -> dict[str, ErrorRow]:
        large = {"large": small(9000, (1.0, 10_000), (0.1, 20_000))}
        return large | {name: small(10, (1.0, 10), (0.1, 80)) for name in names}

    for names in ("ab", "ba"):
        bits = {name: scheme.bits for name, scheme in safe.allocate(table(*names), 2).items()}
        assert bits == {"large": 4, "a": 8, "b": 4}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bits": 4}, "2 weights do not meet --qem 2: no allowed width does (--bits)"),
        ({"bits": 4, "exclude": "w"}, "1 weight does not meet --qem 2: no allowed width does (--bits)"),
        ({"qem": 1e-3}, "2 weights do not meet --qem 0.001: no width does"),
        ({"qem": 2}, None), ({"bits": "4,8"}, None), ({"bits": 4, "qem": 1e4}, None),
        ({"bits": 4, "rule": "paper"}, "2 weights do not meet --qem 2: no allowed width does (--bits)"),
        ({"bits": 4, "scope": "model", "qem": 1e4}, None),
    ],
)  # fmt: skip
def test_weights_that_no_width_serves_are_a_note(model: Path, options: dict[str, Any], told: str | None) -> None:
    for notes in (mq.inspect(model, **options).notes, run_notes(model, options)):
        assert [note for note in notes if "not meet --qem" in note] == ([] if told is None else [told])


def run_notes(model: Path, options: dict[str, Any]) -> tuple[str, ...]:
    loaded = load(model)
    return run.run(loaded, config_of(**options), None, "m")[0].notes
