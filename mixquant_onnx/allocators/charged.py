"""A budget over all layers in which each width also takes bytes once, however many layers have it: its functions."""

from __future__ import annotations

from collections.abc import Mapping, Set

from mixquant_onnx.allocators.budget import Choice, Choices, best_within_bytes

Charges = Mapping[int, int]
"""Bytes that a file takes once for each width in it."""


def best_within_charged(choices: Choices, limit: int, charges: Charges) -> dict[str, Choice]:
    """The least summed cost whose bytes and charges are at most `limit`; the fewest bytes where none is found.

    All widths first; then, as long as that gains, those in use, with one more or one less.
    """

    def among(widths: Set[int]) -> dict[str, Choice] | None:
        kept = {site: [c for c in own if _bits(c) in widths] for site, own in choices.items()}
        if not all(kept.values()):
            return None
        return best_within_bytes(kept, limit - sum(charges.get(bits, 0) for bits in widths))

    def badness(chosen: Mapping[str, Choice]) -> tuple[int, float]:
        return max(total_bytes(chosen, charges) - limit, 0), sum(c.cost for c in chosen.values())

    every = {_bits(c) for own in choices.values() for c in own}
    best = among(every) or {}
    while True:
        used = {_bits(c) for c in best.values()}
        found = [among(used), *(among(used ^ {bits}) for bits in sorted(every))]
        better = min((chosen for chosen in found if chosen), key=badness, default=best)
        if badness(better) >= badness(best):
            return best
        best = better


def total_bytes(chosen: Mapping[str, Choice], charges: Charges) -> int:
    """Of a plan, with the charges of the widths in it."""
    widths = {_bits(choice) for choice in chosen.values()}
    return sum(choice.nbytes for choice in chosen.values()) + sum(charges.get(bits, 0) for bits in widths)


def _bits(choice: Choice) -> int:
    """0 of what stays float."""
    return choice.scheme.bits if choice.scheme else 0
