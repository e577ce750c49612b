"""Statistics of the inputs of a weight: means, variances, second moments, and their shrinkage."""

from __future__ import annotations

from dataclasses import dataclass

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
        is 0.05 to 1.9 on the models of docs/research/accuracy.md, up to 10^5 on generated ones).

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
        damped = self.matrix.copy()
        damped[:, index, index] += self.diagonal() * np.float32(max(_CROSS_DAMPING, 2 * self.shrinkage))
        missed = np.matmul(rows, self.cross - self.matrix).transpose(0, 2, 1)
        return np.asarray(rows + np.linalg.solve(damped, missed).transpose(0, 2, 1), np.float32)

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
        return moments_of(self.mean, self.matrix[:, index, index])


def moments_of(mean: NDArray[np.float32], square: NDArray[np.float32]) -> Moments:
    """Moments by the means of the inputs and of their squares.

    Args:
        mean: E[x] [groups, M].
        square: E[x^2] [groups, M].

    Returns:
        The moments; no variance is 0.
    """
    return Moments(mean=mean, variance=np.maximum(square - mean**2, np.float32(1e-12)))
