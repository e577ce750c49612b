"""The Python interface: quantize, inspect, apply_plan. No prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, Literal, get_args

from mixquant_onnx import run as goals
from mixquant_onnx.errors import OptionError, PlanError, check_folder
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.export.targets.forms import FUSED_PAYS_FROM, FormOptions, Fused, Target
from mixquant_onnx.export.targets.releases import OLDEST_TRIED
from mixquant_onnx.export.targets.table import target_named
from mixquant_onnx.model.files import as_loaded
from mixquant_onnx.numerics.arrays import ALL_BITS
from mixquant_onnx.numerics.granularity import Grid
from mixquant_onnx.options import COSTS, RECONSTRUCTED, Cost, Options, Promise, Reconstruction, need_torch, share
from mixquant_onnx.pipeline import RunResult, execute
from mixquant_onnx.planning.error_table import AUTO_GRIDS, SearchOptions
from mixquant_onnx.planning.plan import BitPlan, Planned, fit_plan
from mixquant_onnx.quantization.ranges import method as known_method
from mixquant_onnx.quantization.weight import SOLVERS


def options_of(
    *,
    qem: float = 2.0,
    scope: Literal["layer", "model"] = "layer",
    avg_bits: float | None = None,
    max_size: str | int | None = None,
    max_drop: str | float | None = None,
    min_sqnr: float | None = None,
    min_agreement: str | float | None = None,
    metric: str | Callable[[Path], float] | None = None,
    metric_key: str | None = None,
    lower_is_better: bool = False,
    metric_timeout: float = 1800.0,
    cost: Cost = "auto",
    bits: int | Sequence[int] = ALL_BITS,
    method: str = "auto",
    granularity: str = "channel",
    symmetric: bool = False,
    baseline: Literal["int8", "same"] = "int8",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_size: int = 256,
    target: Target = "ort",
    fused: Fused = "auto",
    exact: bool = False,
    native_types: bool = False,
    min_ort: tuple[int, int] = FUSED_PAYS_FROM,
    verify: bool = True,
    data: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    labels: str | Path | None = None,
    eval_data: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    rounding: Literal["compensated", "nearest"] = "compensated",
    seed: int = 0,
    iterations: int = 500,
    resume: str | Path | None = None,
    allow_unchanged: bool = False,
    data_free: bool = False,
    rule: Literal["safe", "paper"] = "safe",
) -> Options:
    """The options of a run, checked. Raises OptionError."""
    promise = Promise(
        max_drop=None if max_drop is None else share(max_drop, "--max-drop"),
        min_sqnr=min_sqnr,
        min_agreement=None if min_agreement is None else share(min_agreement, "--min-agreement"),
        metric=metric,
        metric_key=metric_key,
        lower_is_better=lower_is_better,
    )
    if cost not in COSTS:
        raise OptionError(f"cost '{cost}' is not known; use {', '.join(COSTS[:-1])} or {COSTS[-1]}")
    if baseline not in ("int8", "same"):
        raise OptionError(f"baseline '{baseline}' is not known; use int8 or same")
    if scope not in ("layer", "model"):
        raise OptionError(f"scope '{scope}' is not known; use layer or model")
    if exact and target == "qdq":
        raise OptionError("--exact belongs to --target ort; with --target qdq the runtime decides")
    if fused not in get_args(Fused):
        raise OptionError(f"fused '{fused}' is not known; use auto, always or never")
    if exact and fused == "always":
        raise OptionError("--exact and --fused always exclude each other: fused products round activations")
    if rounding not in ("compensated", "nearest"):
        raise OptionError(f"rounding '{rounding}' is not known; use compensated or nearest")
    if min_ort < OLDEST_TRIED:
        raise OptionError("--min-ort goes back to 1.20; older releases were not tried")
    target_named(target)
    chosen = Options(
        qem=float(qem),
        scope=scope,
        avg_bits=avg_bits,
        max_size=None if max_size is None else str(max_size),
        cost=cost,
        promise=promise,
        metric_timeout=metric_timeout,
        form=FormOptions(target=target, fused="never" if exact else fused, native_types=native_types, min_ort=min_ort),
        include=tuple(include),
        exclude=tuple(exclude),
        min_size=min_size,
        verify=verify,
        data=_data(data),
        labels=None if labels is None else Path(labels),
        eval_data=_data(eval_data),
        rounding=rounding,
        reconstruction=Reconstruction(
            seed=seed, iterations=iterations, resume=None if resume is None else Path(resume)
        ),
        allow_unchanged=allow_unchanged,
        data_free=data_free,
        rule=rule,
        method_chosen=method != "auto",
    )
    if method == "auto":
        inputs = data is not None or not data_free
        method = "gptq" if inputs else ("mse" if chosen.budgeted else "minmax")
    known_method(method)
    search = SearchOptions(
        bits=(bits,) if isinstance(bits, int) else tuple(sorted(set(bits))),
        grids=AUTO_GRIDS if granularity == "auto" else (Grid.parse(granularity),),
        method=method,
        symmetric=symmetric,
        baseline=baseline,
        estimate=chosen.budgeted or (rule == "safe" and method in SOLVERS),
    )
    chosen = replace(chosen, search=search)
    if chosen.reconstruction.resume is not None:
        check_folder(chosen.reconstruction.resume)
    return chosen


def _data(data: Any) -> Path | tuple[Mapping[str, Any], ...] | None:
    if data is None or isinstance(data, (str, Path)):
        return None if data is None else Path(data)
    return (data,) if isinstance(data, Mapping) else tuple(data)


def _checked(options: dict[str, Any]) -> Options:
    known = list(signature(options_of).parameters)
    for name in options:
        if name not in known:
            raise OptionError(f"option '{name}' is not known; choose from {', '.join(known)}")
    return options_of(**options)


def _name(model: Any) -> str:
    return str(model) if isinstance(model, (str, Path)) else "the model"


def inspect(model: Any, *, progress: Progress = quiet, **options: Any) -> Planned:
    """What `quantize` would do to `model`: its weights, their errors at each width, the plan.

    `model` is a path, an onnx ModelProto or an onnx_graphsurgeon Graph; `options` as for `quantize`.
    Raises ModelError, OptionError.
    """
    return goals.plan(as_loaded(model), _checked(options), progress)


def quantize(model: Any, output: str | Path | None = None, *, progress: Progress = quiet, **options: Any) -> RunResult:
    """Quantize the weights of `model` by the MixQuant rule, prove the result, and write it to `output`.

    `model` is a path, an onnx ModelProto or an onnx_graphsurgeon Graph, and is not changed. Options:
    qem=2.0, scope="layer" ("model"), or one goal: avg_bits, max_size ("5MB", "25%"), max_drop ("1%") with `labels` or
    a `metric` (a command with {model}, or a callable that takes a path), min_sqnr, min_agreement; cost="auto"
    ("energy", "hessian", "output", "block"), bits=(2..8), method="auto" ("minmax", "mse", "hqq", "gptq", "adaround",
    "brecq"), granularity="channel" ("tensor", "block:N", "auto"), symmetric=False, baseline="int8" ("same"),
    include=(), exclude=(), min_size=256, target="ort" ("qdq"), fused="auto" ("always", "never"), exact=False,
    native_types=False, min_ort=(1, 25), verify=True, data=None, labels=None, eval_data=None, data_free=False,
    rule="safe" ("paper"), rounding="compensated" ("nearest"), seed=0, iterations=500, resume=None,
    allow_unchanged=False.
    `data` and `eval_data` are a path, a feed (arrays by input name) or a list of feeds. Raises a
    MixquantError (see `errors`); then nothing was written.
    """
    chosen = _checked(options)
    path = None if output is None else Path(output)
    return goals.run(as_loaded(model), chosen, path, _name(model), progress)[1]


def apply_plan(
    model: Any,
    plan: BitPlan | str | Path,
    output: str | Path | None = None,
    *,
    progress: Progress = quiet,
    **options: Any,
) -> RunResult:
    """Replay `plan` (a BitPlan, or a file that `--plan` wrote) on `model`. Options and errors as `quantize`."""
    chosen = _checked(options)
    read = read_plan(plan)
    check_data(read, chosen)
    planned = fit_plan(as_loaded(model), read, chosen, progress)
    return execute(planned, chosen, None if output is None else Path(output), _name(model), progress)


def check_data(plan: BitPlan, options: Options) -> None:
    """Raises OptionError where `plan` has methods that need data and `options` give none."""
    if any(scheme.method == RECONSTRUCTED for scheme in plan.sites.values()):
        need_torch()
    if options.data is None and options.data_free:
        for name, scheme in plan.sites.items():
            if scheme.method in SOLVERS:
                raise OptionError(f"the plan's method for '{name}', '{scheme.method}', needs --data; give it again")


def read_plan(plan: BitPlan | str | Path) -> BitPlan:
    """Raises PlanError when the file is missing or not a plan."""
    if isinstance(plan, BitPlan):
        return plan
    data = read_json(Path(plan), "write a plan with --plan FILE")
    try:
        read = BitPlan.from_json(data)
        for scheme in read.sites.values():
            known_method(scheme.method)
    except (OptionError, PlanError) as error:
        raise PlanError(f"{plan}: {error}") from error
    return read


def read_json(path: Path, advice: str) -> Any:
    """What the file at `path` holds. Raises PlanError, with `advice`."""
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror or error}; {advice}") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path}: not JSON ({error}); {advice}") from error
