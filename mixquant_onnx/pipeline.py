"""The whole run: find, measure, choose, quantize, rewrite, save, prove."""

from __future__ import annotations

import fnmatch
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import ModelProto

from mixquant_onnx import verify
from mixquant_onnx.allocators import qem as qem_rule
from mixquant_onnx.encodings.forms import FormOptions
from mixquant_onnx.errors import OptionError, PlanError, ProofError, UnchangedError
from mixquant_onnx.feeds import Data, load_data, model_inputs
from mixquant_onnx.graph import model_io
from mixquant_onnx.graph.rewrite import Rewritten, rewrite
from mixquant_onnx.graph.sites import LocatedSite, find, weight_values
from mixquant_onnx.measure import SearchOptions, measure
from mixquant_onnx.quantizer import quantize_weight
from mixquant_onnx.runtime import RuntimeFailure, Session
from mixquant_onnx.types import ALL_BITS, BitPlan, ErrorTable, Quantized, SiteErrors

Progress = Callable[[str, int, int], None]
"""Called with the stage, how much of it is done, and how much there is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Every choice of a run. Patterns match tensor, site and node names (fnmatch)."""

    qem: float = 2.0
    search: SearchOptions = field(default_factory=SearchOptions)
    form: FormOptions = field(default_factory=FormOptions)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_size: int = 256
    verify: bool = True
    data: Path | None = None
    labels: Path | None = None
    allow_unchanged: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.qem) and self.qem > 0):
            raise OptionError(f"--qem {self.qem:g} is not a positive number; 2 is a good start")
        if not self.search.bits or any(b not in ALL_BITS for b in self.search.bits):
            raise OptionError("--bits takes widths from 2 to 8, such as 2-8 or 4,8")
        if self.min_size < 1:
            raise OptionError("--min-size takes a positive number of elements")
        if self.form.native_types and not set(self.search.bits) & {2, 4, 8}:
            raise OptionError("--native-types leaves no width: allow 4 or 8 with --bits")
        if self.labels is not None and self.data is None:
            raise OptionError("--labels needs --data")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Planned:
    """Everything before the graph is touched. `sites` point into `model`."""

    loaded: model_io.Loaded
    sites: Mapping[str, LocatedSite]
    table: ErrorTable
    plan: BitPlan


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunResult:
    """The model, what was decided and measured, and the proof (None where it was not asked for).

    Sizes are bytes, external data included.
    """

    model: ModelProto
    plan: BitPlan
    table: ErrorTable
    sites: Mapping[str, LocatedSite]
    rewritten: Rewritten
    form: FormOptions
    verification: verify.Verification | None
    nbytes_before: int
    nbytes_after: int
    files: tuple[Path, ...] = field(default=())

    @property
    def elements(self) -> int:
        return sum(self.sites[name].site.elements for name in self.plan.sites)

    @property
    def average_bits(self) -> float:
        """Bits for each quantized weight: codes, scales and zero points as stored."""
        return 8 * sum(self.rewritten.nbytes.values()) / self.elements if self.plan.sites else 0.0


def _quiet(stage: str, done: int, total: int) -> None:
    return None


def _matches(located: LocatedSite, pattern: str) -> bool:
    names = {located.site.name, located.site.tensor, *(use.node for use in located.site.uses)}
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _selected(sites: Mapping[str, LocatedSite], options: Options, skipped: dict[str, str]) -> dict[str, LocatedSite]:
    for flag, patterns in (("--include", options.include), ("--exclude", options.exclude)):
        for pattern in patterns:
            if not any(_matches(located, pattern) for located in sites.values()):
                raise OptionError(f"{flag} '{pattern}' matches no weight; `mixquant-onnx inspect` lists their names")
    kept = {}
    for name, located in sites.items():
        if any(_matches(located, p) for p in options.exclude):
            skipped[name] = "excluded"
        elif options.include and not any(_matches(located, p) for p in options.include):
            skipped[name] = "not included"
        else:
            kept[name] = located
    return kept


def _unusable(located: LocatedSite) -> str | None:
    with np.errstate(over="ignore"):
        values = np.asarray(weight_values(located), np.float32)
    return None if np.isfinite(values).all() else "holds NaN or Inf"


OVERHEAD = 300
"""Bytes of names, shapes and nodes that a quantized tensor brings along."""


def make_plan(loaded: model_io.Loaded, options: Options, progress: Progress = _quiet) -> Planned:
    """Search and allocation: nothing is changed. Raises OptionError for a pattern that matches nothing."""
    found = find(loaded.model, options.min_size)
    skipped = dict(found.skipped)
    sites = _selected(found.sites, options, skipped)
    for name, located in list(sites.items()):
        reason = _unusable(located)
        if reason:
            skipped[name] = reason
            del sites[name]
    total = sum(located.site.elements for located in sites.values())
    done = 0

    def advance(elements: int) -> None:
        nonlocal done
        done += elements
        progress("search", done, total)

    bits = options.search.bits
    if options.form.native_types:
        bits = tuple(b for b in bits if b in (2, 4, 8))
    search = SearchOptions(
        bits=bits,
        grid=options.search.grid,
        method=options.search.method,
        symmetric=options.search.symmetric,
        baseline=options.search.baseline,
    )
    table = measure([s.site for s in sites.values()], lambda n: weight_values(sites[n]), search, advance)
    chosen = qem_rule.allocate(table, options.qem)
    for name, scheme in list(chosen.items()):
        cell = next(c for c in table[name].cells if c.scheme == scheme)
        weight = sites[name].source.tensor
        if cell.nbytes + OVERHEAD >= weight.ByteSize():
            skipped[name] = f"{scheme.bits} bits with their scales would take as much as float"
            del chosen[name]
    plan = BitPlan(
        sites=chosen,
        skipped=skipped,
        allocator="qem",
        settings={
            "qem": options.qem,
            "bits": list(bits),
            "granularity": str(search.grid),
            "method": search.method,
            "symmetric": search.symmetric,
            "baseline": search.baseline,
            "min_size": options.min_size,
        },
    )
    return Planned(loaded=loaded, sites=found.sites, table=table, plan=plan)


def fit_plan(loaded: model_io.Loaded, plan: BitPlan, options: Options, progress: Progress = _quiet) -> Planned:
    """`plan` (written by another run, perhaps edited) for this model. Raises PlanError where it does not fit."""
    found = find(loaded.model, 1)
    unknown = [name for name in plan.sites if name not in found.sites]
    if unknown:
        raise PlanError(f"the plan names '{unknown[0]}', which is no weight of this model; remove it, or plan again")
    for name in plan.sites:
        reason = _unusable(found.sites[name])
        if reason:
            raise PlanError(f"the plan quantizes '{name}', which {reason}; remove it from the plan")
    skipped = dict(find(loaded.model, options.min_size).skipped)
    large = find(loaded.model, options.min_size).sites
    skipped.update({n: plan.skipped.get(n, "not in the plan") for n in large if n not in plan.sites})
    table: dict[str, SiteErrors] = {}
    for position, (name, scheme) in enumerate(plan.sites.items()):
        search = SearchOptions(bits=(scheme.bits,), grid=scheme.grid, method=scheme.method, symmetric=scheme.symmetric)
        located = found.sites[name]
        table.update(measure([located.site], lambda n: weight_values(found.sites[n]), search))
        progress("search", position + 1, len(plan.sites))
    kept = BitPlan(sites=plan.sites, skipped=skipped, allocator=plan.allocator, settings=plan.settings)
    return Planned(loaded=loaded, sites=found.sites, table=table, plan=kept)


def execute(
    planned: Planned, options: Options, output: Path | None, name: str, progress: Progress = _quiet
) -> RunResult:
    """Quantize, rewrite, save and prove. Raises UnchangedError, OutputError, ProofError, DataError."""
    plan, original = planned.plan, planned.loaded.model
    if not plan.sites and not options.allow_unchanged:
        raise UnchangedError(f"{name}: nothing was quantized ({_why_unchanged(planned)}); see mixquant-onnx inspect")
    data = None
    if options.verify and options.data is not None:
        data = load_data(options.data, options.labels, model_inputs(original))
    quantized: dict[str, Quantized] = {}
    for position, (site, scheme) in enumerate(plan.sites.items()):
        located = planned.sites[site]
        quantized[site] = quantize_weight(located.site, weight_values(located), scheme)
        progress("quantize", position + 1, len(plan.sites))
    model = ModelProto()
    model.CopyFrom(original)
    rewritten = rewrite(model, quantized, options.form, 1)
    proof: verify.Verification | None = None
    if output is None:
        size = model.ByteSize()
        if options.verify:
            proof = prove(original, model, planned.sites, quantized, rewritten, model, data, progress)
        files: tuple[Path, ...] = ()
    else:
        files, size, proof = _write(planned, model, quantized, rewritten, output, options, data, progress)
    return RunResult(
        model=model,
        plan=plan,
        table=planned.table,
        sites=planned.sites,
        rewritten=rewritten,
        form=options.form,
        verification=proof,
        nbytes_before=planned.loaded.nbytes,
        nbytes_after=size,
        files=files,
    )


def _why_unchanged(planned: Planned) -> str:
    reasons = list(planned.plan.skipped.values())
    if not reasons:
        return "the model holds no float tensor over the size limit"
    common = max(set(reasons), key=reasons.count)
    return f"{len(reasons)} float tensors were skipped, most because: {common}"


def _write(
    planned: Planned,
    model: ModelProto,
    quantized: Mapping[str, Quantized],
    rewritten: Rewritten,
    output: Path,
    options: Options,
    data: Data | None,
    progress: Progress,
) -> tuple[tuple[Path, ...], int, verify.Verification | None]:
    """Save beside `output` under a temporary name, prove what was saved, then rename."""
    model_io.check_writable(output)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        progress("save", 0, 1)
        data_name = _free_data_name(output)
        written = model_io.save(model, Path(folder) / output.name, planned.loaded.external, data_name)
        proof = None
        if options.verify:
            saved = model_io.load(written[0]).model
            proof = prove(planned.loaded.model, saved, planned.sites, quantized, rewritten, written[0], data, progress)
        size = sum(file.stat().st_size for file in written)
        placed = []
        for file in reversed(written):
            file.replace(output.parent / file.name)
            placed.append(output.parent / file.name)
    return tuple(reversed(placed)), size, proof


def _free_data_name(output: Path) -> str:
    """External data must not overwrite a file that the input may still need."""
    name, count = f"{output.name}.data", 1
    while (output.parent / name).exists():
        name, count = f"{output.name}.{count}.data", count + 1
    return name


def prove(
    original: ModelProto,
    saved: ModelProto,
    sites: Mapping[str, LocatedSite],
    quantized: Mapping[str, Quantized],
    rewritten: Rewritten,
    source: ModelProto | Path,
    data: Data | None,
    progress: Progress = _quiet,
) -> verify.Verification:
    """Run every check on `saved` (at `source`). Turns `original` into its oracle. Raises ProofError."""
    notes: list[str] = []
    progress("proof", 0, 5)
    try:
        deployed = Session(source)
        exact = Session(source, "exact")
        runs = True
    except RuntimeFailure as failure:
        runs = False
        refusal = str(failure)
    try:
        float_session: Session | None = Session(original)
    except RuntimeFailure as failure:
        float_session = None
        notes.append(f"ONNX Runtime cannot run the float model here ({failure}); the proof is on the codes alone")
    if not runs and float_session is not None:
        raise ProofError(f"proof failed: ONNX Runtime does not load the result ({refusal})")
    progress("proof", 1, 5)
    decoder = verify.prove_codes(saved, sites, quantized, rewritten.values)
    progress("proof", 2, 5)
    ratio: float | None = None
    quality: tuple[verify.Quality, ...] = ()
    accuracy: float | None = None
    if float_session is not None and data is None:
        data = verify.usable_data(float_session, original)
        if data is None:
            notes.append("outputs were not compared: no generated input runs on the float model; give --data")
    if float_session is not None and data is not None:
        reference = verify.reference_outputs(float_session, data)
        accuracy = verify.float_accuracy(reference, data)
        del float_session
        progress("proof", 3, 5)
        verify.oracle(original, sites, quantized)
        ratio = verify.check_oracle(saved, original, exact, data, {q.dtype for q in quantized.values()})
        progress("proof", 4, 5)
        quality = tuple(verify.quality_of(reference, session, data) for session in (exact, deployed))
    progress("proof", 5, 5)
    return verify.Verification(
        codes=len(quantized),
        decoder=decoder,
        oracle_sqnr_db=ratio,
        quality=quality,
        float_accuracy=accuracy,
        samples=0 if data is None else verify.sample_count(data),
        synthetic=data is not None and data.synthetic,
        notes=tuple(notes),
    )
