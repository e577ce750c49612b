"""Plans in JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mixquant_onnx.errors import OptionError, PlanError
from mixquant_onnx.planning.plan import Plan
from mixquant_onnx.quantization.methods import method


def read_plan(plan: Plan | str | Path) -> Plan:
    """Read a plan.

    Args:
        plan: A plan, or a file that `--plan` wrote.

    Returns:
        The plan.

    Raises:
        PlanError: The file is missing or not a plan.
    """
    if isinstance(plan, Plan):
        return plan
    data = read_json(Path(plan), "write a plan with --plan FILE")
    try:
        read = Plan.from_json(data)
        for scheme in read.sites.values():
            method(scheme.method)
    except (OptionError, PlanError) as error:
        raise PlanError(f"{plan}: {error}") from error
    return read


def read_json(path: Path, advice: str) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        advice: How to make such a file, for the message.

    Returns:
        The parsed value.

    Raises:
        PlanError: The file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror or error}; {advice}") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path}: not JSON ({error}); {advice}") from error
