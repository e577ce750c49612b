"""Mixed-precision weight quantization of ONNX models for stock ONNX Runtime, with verification of the result.

In: an ONNX model. Out: a smaller one, and a report. Packages and their order are in ARCHITECTURE.md;
docs/extending.md lists which file to change for a new method, encoding, allocator, sensitivity, target, section or
option.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixquant_onnx.errors import (
    DataError,
    MetricError,
    MixquantError,
    ModelError,
    OptionError,
    OutputError,
    PlanError,
    PromiseError,
    ProofError,
    UnchangedError,
)

if TYPE_CHECKING:
    from mixquant_onnx.api import apply_plan, inspect, quantize, sweep
    from mixquant_onnx.planning.plan import Plan
    from mixquant_onnx.result import RunResult
    from mixquant_onnx.verification.compare_models import compare
    from mixquant_onnx.verification.comparison import Comparison

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "DataError",
    "MetricError",
    "MixquantError",
    "ModelError",
    "OptionError",
    "OutputError",
    "Plan",
    "PlanError",
    "PromiseError",
    "ProofError",
    "RunResult",
    "UnchangedError",
    "__version__",
    "apply_plan",
    "compare",
    "inspect",
    "quantize",
    "sweep",
]

_LATE = {
    "apply_plan": "api",
    "compare": "verification.compare_models",
    "inspect": "api",
    "quantize": "api",
    "sweep": "api",
    "RunResult": "pipeline",
    "Plan": "planning.plan",
    "Comparison": "verification.comparison",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Import late: onnx and numpy take longer than `--help` may."""
    if name in _LATE:
        import importlib

        return getattr(importlib.import_module(f"mixquant_onnx.{_LATE[name]}"), name)
    raise AttributeError(f"module 'mixquant_onnx' has no attribute '{name}'")
