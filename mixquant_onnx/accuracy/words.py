"""What a run for an accuracy target says: of each trial, of the choice, and of what stands in the way."""

from __future__ import annotations

from mixquant_onnx.numerics.granularity import ALL_BITS
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.planning.search import widths
from mixquant_onnx.result import RunResult


def trial_words(result: RunResult, cost: str, found: str, kept: bool) -> str:
    """A line on a trial.

    Args:
        result: The finished file.
        cost: Name of the sensitivity.
        found: What was judged, as text.
        kept: Whether it met the target.

    Returns:
        The line, with the bits that the file has.
    """
    left = len(result.table) - len(result.plan.sites)
    bits = f"{result.average_bits:.2f} bits a weight" + (f" ({left} weights float)" if left else "")
    return f"{bits}, cost {cost}: {result.nbytes_after} bytes, {found}: {'kept' if kept else 'not kept'}"


def choice_words(result: RunResult, found: str, drafts: int) -> tuple[str, ...]:
    """The note that a file was chosen by the value that is shown for it.

    Args:
        result: The chosen file, with all trials.
        found: What was judged, as text.
        drafts: Number of drafts that were judged in the same way.

    Returns:
        A note; none where there was no choice.
    """
    count, proof = len(result.trials), result.verification
    if count + drafts < 2:
        return ()
    trials = f"{count} trials" if count > 1 else "1 trial"
    tried = trials + (f" and {drafts} drafts" if drafts else "")
    metric = proof is None or found.startswith("value ")
    where = "by this metric" if proof is None or metric else f"on these {proof.samples} rows"
    others = "with the metric on other data" if metric else "on other rows with mixquant-onnx compare"
    return (f"{found}: the file was chosen among {tried} {where}, so the figure is optimistic; judge it {others}",)


def most_bits(planned: Planned) -> int | None:
    """The width that all quantized weights of a plan have, where --bits allows no higher one; else None."""
    most = max(widths(planned.table), default=max(ALL_BITS))
    used = {scheme.bits for scheme in planned.plan.sites.values()}
    return most if most < max(ALL_BITS) and used == {most} and planned.form.integer is None else None
