"""The outputs of a session on data."""

from __future__ import annotations

import numpy as np

from mixquant_onnx.data.dataset import Data
from mixquant_onnx.errors import DataError
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.outputs import Outputs, arrays_of
from mixquant_onnx.runtime.session import RuntimeFailure, Session


def run_all(session: Session, data: Data) -> list[list[FloatArray]]:
    """Outputs of a model for each batch.

    Args:
        session: The model.
        data: The batches.

    Returns:
        Outputs in order, for each batch.

    Raises:
        RuntimeFailure: The model does not run.
    """
    return [session.run(feed) for feed in data.feeds]


def reference_outputs(session: Session, data: Data) -> list[list[FloatArray]]:
    """The float model's outputs on the user's data.

    Args:
        session: The float model.
        data: The batches.

    Returns:
        Outputs in order, for each batch.

    Raises:
        DataError: The model does not run on `data`, or gives NaN.
    """
    try:
        outputs = run_all(session, data)
    except RuntimeFailure as failure:
        raise DataError(f"the float model does not run on this data: {failure}") from failure
    if has_nan(outputs):
        raise DataError("the float model gives NaN on this data; give rows on which it works")
    return outputs


def has_nan(outputs: Outputs) -> bool:
    """Whether any floating-point output holds NaN.

    Args:
        outputs: Outputs in order, for each batch.

    Returns:
        True if there is a NaN.
    """
    arrays = [a for feed in outputs for a in arrays_of(feed).values()]
    return any(bool(np.isnan(a).any()) for a in arrays if np.issubdtype(a.dtype, np.floating))
