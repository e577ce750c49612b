"""The runtime targets, one row each."""

from __future__ import annotations

from mixquant_onnx.errors import check_choice
from mixquant_onnx.export.targets import ort, qdq
from mixquant_onnx.export.targets.target import Target

TARGETS: dict[str, Target] = {"ort": ort, "qdq": qdq}
"""By the name that `FormOptions.target` and `--target` give."""


def target_named(name: str) -> Target:
    """The target of a name.

    Args:
        name: A key of `TARGETS`.

    Returns:
        The target.

    Raises:
        OptionError: There is no such target.
    """
    check_choice("--target", name, TARGETS)
    return TARGETS[name]
