"""What is tried for a promise, with costs whose fewest bits are known."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mixquant_onnx.accuracy.bisection import Verdict, bisect


class Tries:
    """Each cost keeps the promise from some bits up; the score says how far above it is."""

    def __init__(self, enough: Mapping[str, float], least: float = 2.1) -> None:
        self.enough, self.made = enough, [("", 0.0, False)][:0]
        bisect(list(enough), self.judge, least)

    def judge(self, cost: str, bits: float) -> Verdict:
        known = (cost, bits) in [(c, b) for c, b, _ in self.made]
        verdict = Verdict(kept=bits >= self.enough[cost], score=bits - self.enough[cost], known=known)
        self.made.append((cost, bits, verdict.kept))
        return verdict

    @property
    def found(self) -> float:
        return min((bits for _, bits, kept in self.made if kept), default=float("inf"))


@pytest.mark.parametrize("enough", [1.0, 2.12, 2.5, 3.0, 4.0, 5.0, 6.7, 8.5, 9.0, 20.0, 27.0])
@pytest.mark.parametrize("others", [(), (30.0,), (30.0, 29.0, 28.0)])
def test_the_fewest_bits_are_found_in_few_tries_wherever_the_best_cost_stands(
    enough: float, others: tuple[float, ...]
) -> None:
    for place in range(min(len(others), 1) + 1):
        order = [*others[:place], enough, *others[place:]]
        tries = Tries({f"cost {k}": bits for k, bits in enumerate(order)})
        assert max(enough, 2.1) <= tries.found <= max(enough, 2.1) * 1.05
        assert len(tries.made) <= 12


def test_nothing_is_found_where_nothing_keeps_the_promise() -> None:
    assert Tries({"a": 40.0, "b": 50.0}).found == float("inf")


@pytest.mark.parametrize("better", [4.0, 4.4, 4.6])
def test_tries_that_are_left_go_to_costs_that_were_not_expected_to_do_well(better: float) -> None:
    tries = Tries({"output": 4.9, "hessian": 6.0, "energy": better, "even": 8.0})
    assert better <= tries.found < 4.7
    assert [cost for cost, *_ in tries.made].count("energy") >= 2


def test_a_cost_that_lost_is_tried_again_below_what_is_kept() -> None:
    class Lucky(Tries):
        """The second cost only looks worse at 4 bits."""

        def judge(self, cost: str, bits: float) -> Verdict:
            verdict = super().judge(cost, bits)
            return Verdict(kept=verdict.kept and bits != 4.0, score=verdict.score * (-1 if bits == 4.0 else 1))

    tries = Lucky({"a": 5.0, "b": 3.9})
    assert {cost for cost, bits, _ in tries.made if bits > 4} == {"a", "b"}
    assert tries.found < 4.9


def test_what_is_known_costs_no_try() -> None:
    class Same(Tries):
        """All costs make the plan of the first."""

        def judge(self, cost: str, bits: float) -> Verdict:
            verdict = super().judge("a", bits)
            if verdict.known:
                self.made.pop()
            return verdict

    tries = Same({"a": 2.9, "b": 2.9, "c": 2.9})
    assert len(tries.made) <= 12 and 2.9 <= tries.found <= 2.9 * 1.02
