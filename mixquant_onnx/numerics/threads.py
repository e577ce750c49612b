"""Large arrays side by side, in threads: NumPy lets others run meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    """Results in the order of the items, of which as many are worked on at the same time as there are jobs.

    Args:
        function: What is done with each; it must not change what another one reads.
        items: The items.
        jobs: Number of threads; -1 for as many as there are processors, 1 for none.

    Yields:
        One result for each item.
    """
    if jobs == 1:
        yield from map(function, items)
        return
    import joblib

    parallel = joblib.Parallel(n_jobs=jobs, backend="threading", return_as="generator", pre_dispatch="n_jobs")
    yield from parallel(joblib.delayed(function)(item) for item in items)
