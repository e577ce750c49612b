"""Statistics of the inputs of a weight: means, variances, second moments, and their shrinkage."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.quadratic import quadratic_error

_LEAST_VARIANCE = 0.1
"""Least variance of an input, relative to its layer's mean variance, where inputs are generated: real ones may vary
more.
"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """Mean and variance of the input of each weight in a row.

    Attributes:
        mean: [groups, M], one row for each group of a Conv, else one.
        variance: [groups, M].
        one_signed: [groups, M], inputs whose sign was constant, as after Relu; None if unknown.
    """

    mean: NDArray[np.float32]
    variance: NDArray[np.float32]
    one_signed: NDArray[np.bool_] | None = None

    def of_generated_inputs(self) -> Moments:
        """The statistics of noise that also hold for real inputs.

        Inputs of one sign share that sign, but noise does not tell which are largest: they get a common mean. No
        variance is below its squared mean: real inputs vary more than noise (mean^2 / variance of a layer's real inputs
        is 0.05 to 1.9 on the models of docs/accuracy.md, up to 10^5 on generated ones).

        Returns:
            Moments of the same shape; `self` where signs are unknown.

        Source:
            A common mean: SQuant, Guo et al. 2022, arXiv 2202.07471.
        """
        if self.one_signed is None:
            return self
        count = np.maximum(self.one_signed.sum(axis=1, keepdims=True), 1)
        shared = np.where(self.one_signed, self.mean, 0).sum(axis=1, keepdims=True) / count
        mean = np.where(self.one_signed, shared, self.mean).astype(np.float32)
        variance = np.maximum(self.variance, mean**2)
        least = _LEAST_VARIANCE * variance.mean(axis=1, keepdims=True)
        return Moments(mean=mean, variance=np.maximum(variance, least), one_signed=self.one_signed)

    def part(self, rows: slice, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and variance of a slice of the weight's rows.

        Args:
            rows: The slice; rows are in the order of the groups.
            count: Number of all rows.

        Returns:
            Two arrays that broadcast against the slice [n, M].
        """
        groups = len(self.mean)
        if groups == 1:
            return self.mean, self.variance
        which = np.arange(rows.start, rows.stop) * groups // count
        return self.mean[which], self.variance[which]


Matrices = NDArray[np.float32]
"""[groups, K, K] or [groups, rows, K]: one for each group of a Conv, else one."""

LEAST_SHRINKAGE = 0.01
"""Least shrinkage of the off-diagonal moments (the damping of GPTQ, Frantar et al. 2023, arXiv 2210.17323)."""

_CROSS_DAMPING = 0.05
"""Least damping of the least-squares target, as a share of the diagonal."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SecondMoments:
    """Second moments of the inputs x of a weight's rows.

    Attributes:
        matrix: E[x x^T] [groups, K, K].
        mean: E[x] [groups, K].
        samples: Number of samples n.
        cross: E[y x^T] [groups, K, K], with x from the partly quantized model and y from the float model; None where
            both are the same.
        halves: The same statistics of the even and of the odd batches; None where there is one batch.
        sample_weight: Number of independent samples that each sample counts as.
    """

    matrix: Matrices
    mean: NDArray[np.float32]
    samples: int
    cross: Matrices | None = None
    halves: tuple[SecondMoments, SecondMoments] | None = None
    sample_weight: float = 1.0

    @property
    def groups(self) -> int:
        """Groups of a Conv, else 1."""
        return int(self.matrix.shape[0])

    @property
    def width(self) -> int:
        """Inputs K of each output."""
        return int(self.matrix.shape[2])

    @property
    def effective_samples(self) -> float:
        """Number of independent samples: `samples` times `sample_weight`."""
        return self.samples * self.sample_weight

    @property
    def shrinkage(self) -> float:
        """Share of the off-diagonal moments to drop: K / (K + n), n the effective samples; at least LEAST_SHRINKAGE."""
        return max(LEAST_SHRINKAGE, self.width / (self.width + self.effective_samples))

    def shrunk(self) -> Matrices:
        """`matrix` [groups, K, K] shrunk towards its diagonal by `shrinkage`; positive definite."""
        diagonal = self.diagonal()
        result = self.matrix * np.float32(1 - self.shrinkage)
        index = np.arange(self.width)
        result[:, index, index] = diagonal
        return np.asarray(result, np.float32)

    def diagonal(self) -> NDArray[np.float32]:
        """E[x_j^2] [groups, K], with a floor of 0.1 % of the mean, so that no weight is unconstrained."""
        index = np.arange(self.width)
        diagonal = self.matrix[:, index, index]
        least = 1e-3 * diagonal.mean(axis=1, keepdims=True) + np.float32(1e-12)
        return np.asarray(np.maximum(diagonal, least), np.float32)

    def target(self, rows: Matrices) -> Matrices:
        """The weights that best reproduce the float output on the current inputs.

        W + W (E[y x^T] - E[x x^T]) (E[x x^T] + damping)^-1, the least-squares solution of min |W y - W' x|^2; the
        damping grows as samples get fewer.

        Args:
            rows: The float weights W [groups, n, K].

        Returns:
            Weights [groups, n, K]; `rows` itself without `cross`.
        """
        if self.cross is None:
            return rows
        index = np.arange(self.width)
        damped = self.matrix.astype(np.float64)
        damped[:, index, index] += self.diagonal() * max(_CROSS_DAMPING, 2 * self.shrinkage)
        missed = np.matmul(rows, self.cross - self.matrix).transpose(0, 2, 1)
        return np.asarray(rows + np.linalg.solve(damped, missed.astype(np.float64)).transpose(0, 2, 1), np.float32)

    def output_loss(self, rows: Matrices, levels: Matrices) -> float:
        """Mean squared difference of the outputs of two weights, up to a constant that does not depend on `levels`.

        Args:
            rows: The float weights [groups, n, K], applied to the float model's inputs.
            levels: QuantizedTensor weights [groups, n, K], applied to the current inputs.

        Returns:
            The loss, in squared units of the output, summed over rows and groups.
        """
        if self.cross is None:
            return quadratic_error(levels - rows, self.matrix)
        return quadratic_error(levels, self.matrix) - 2 * float(np.vdot(np.matmul(rows, self.cross), levels))

    @property
    def moments(self) -> Moments:
        """Mean and variance alone."""
        index = np.arange(self.width)
        return _moments(self.mean, self.matrix[:, index, index])


def _moments(mean: NDArray[np.float32], square: NDArray[np.float32]) -> Moments:
    return Moments(mean=mean, variance=np.maximum(square - mean**2, np.float32(1e-12)))


_AT_ONCE = 2048
"""Samples that are multiplied at once: small products are slow. Affects speed alone."""


def _products(left: Matrices, right: Matrices) -> Matrices:
    """left^T right for each group; for one group a plain product, which BLAS halves when both are the same array."""
    if len(left) == 1:
        return np.asarray((left[0].T @ right[0])[None], np.float32)
    return np.asarray(np.matmul(left.transpose(0, 2, 1), right), np.float32)


_WIDEST_SPLIT = 4096
"""Widest input for which statistics of halves are collected: they take as much memory as the whole."""


class Accumulator:
    """Running sums of one weight's inputs over batches; float64 across batches.

    Args:
        full: Whether to sum products of all pairs of inputs, or only squares.
        split: Whether to collect halves too, where there is more than one batch.
    """

    def __init__(self, full: bool = True, split: bool = False) -> None:
        self._full, self._split = full, full and split
        self._sums = (_Sums(full), _Sums(full))
        self._feeds = 0

    def add(self, rows: Matrices, reference: Matrices | None = None) -> None:
        """Add the samples of one batch.

        Args:
            rows: Inputs [groups, n, K] of the current model.
            reference: The same samples of the float model; None where both are the same.
        """
        apart = self._split and rows.shape[2] <= _WIDEST_SPLIT
        self._sums[self._feeds % 2 if apart else 0].add(rows, reference)
        self._feeds += 1

    def result(self) -> SecondMoments | Moments | None:
        """The statistics so far.

        Returns:
            SecondMoments if `full`, else Moments; None where nothing was added, or a sum is not finite.
        """
        one, two = self._sums
        if not self._full:
            return one.moments()
        if not two.samples:
            return one.second_moments()
        halves = one.second_moments(), two.second_moments()
        one.join(two)
        whole = one.second_moments()
        if whole is None or halves[0] is None or halves[1] is None:
            return None
        return replace(whole, halves=(halves[0], halves[1]))


class _Sums:
    """The sums of one half."""

    def __init__(self, full: bool) -> None:
        self._full = full
        self._sums: list[NDArray[np.float64]] | None = None
        self.samples = 0
        self._ends: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        self._waiting: list[tuple[Matrices, Matrices | None]] = []

    def add(self, rows: Matrices, reference: Matrices | None) -> None:
        self._waiting.append((rows, reference))
        self.samples += rows.shape[1]
        if sum(waiting.shape[1] for waiting, _ in self._waiting) >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows = np.concatenate([rows for rows, _ in self._waiting], axis=1)
        references = [reference for _, reference in self._waiting if reference is not None]
        self._waiting = []
        square = _products(rows, rows) if self._full else np.einsum("gnk,gnk->gk", rows, rows)
        if not self._full:
            low, high = self._ends or (np.float32(np.inf), np.float32(-np.inf))
            self._ends = np.minimum(rows.min(axis=1), low), np.maximum(rows.max(axis=1), high)
        parts = [square, rows.sum(axis=1)]
        if references:
            parts.append(_products(np.concatenate(references, axis=1), rows))
        if self._sums is None:
            self._sums = [np.zeros(part.shape) for part in parts]
        for total, part in zip(self._sums, parts, strict=True):
            total += part

    def join(self, other: _Sums) -> None:
        """Add the sums of `other`, which must not be used afterwards."""
        if self._sums is not None and other._sums is not None:
            for total, part in zip(self._sums, other._sums, strict=True):
                total += part
            self.samples += other.samples

    def _means(self) -> list[NDArray[np.float32]] | None:
        self._flush()
        if self._sums is None or not all(np.isfinite(total).all() for total in self._sums):
            return None
        return [(total / self.samples).astype(np.float32) for total in self._sums]

    def moments(self) -> Moments | None:
        means = self._means()
        if means is None or self._ends is None:
            return None
        one_signed = (self._ends[0] >= 0) | (self._ends[1] <= 0)
        return replace(_moments(means[1], means[0]), one_signed=one_signed)

    def second_moments(self) -> SecondMoments | None:
        means = self._means()
        if means is None:
            return None
        square, mean, *cross = means
        return SecondMoments(matrix=square, mean=mean, samples=self.samples, cross=cross[0] if cross else None)
