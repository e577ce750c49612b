"""A run as plain data (`--json`). Renderings read this and nothing else."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

import mixquant_onnx
from mixquant_onnx.export.encodings.sizes import bits_per_weight
from mixquant_onnx.export.targets.releases import Releases
from mixquant_onnx.export.targets.table import target_named
from mixquant_onnx.model.blocks import find_blocks
from mixquant_onnx.model.constants import float_nbytes
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.pipeline import RunResult
from mixquant_onnx.planning.error_table import SiteErrors
from mixquant_onnx.planning.plan import Planned
from mixquant_onnx.quantization.reconstruction.supported import is_known
from mixquant_onnx.runtime.session import version
from mixquant_onnx.verification.quality import OutputQuality, Quality
from mixquant_onnx.verification.statistics import Share
from mixquant_onnx.verification.verify import Verification

SUMMARY_FORMAT = 1


def finite(value: float | None) -> float | str | None:
    """JSON has no infinity, and NaN is nothing."""
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def _qe(errors: SiteErrors, scheme: Scheme) -> float:
    return next(cell.qe for cell in errors.cells if cell.scheme == scheme)


def _sqnr(power: float, qe: float) -> float:
    if qe == 0:
        return math.inf
    return 10 * (math.log10(power) - math.log10(qe)) if power > 0 else -math.inf


def block_summary(planned: Planned) -> list[dict[str, Any]]:
    """What `inspect --blocks` shows: each block in order, then the planned weights that are in none (`exit` None).

    `unknown`: operators that torch does not compute here; brecq leaves such a block to its single layers.
    """
    blocks = find_blocks(planned.loaded.model, planned.sites, planned.plan.sites)
    nodes = planned.loaded.model.graph.node
    made: list[dict[str, Any]] = [
        {
            "exit": block.exit,
            "inputs": list(block.inputs),
            "weights": list(block.sites),
            "operators": sorted({nodes[k].op_type for k in block.nodes} - {"Constant"}),
            "unknown": sorted({nodes[k].op_type for k in block.nodes if not is_known(nodes[k])}),
        }
        for block in blocks
    ]
    inside = {name for block in blocks for name in block.sites}
    alone = [name for name in planned.plan.sites if name not in inside]
    return [*made, {"exit": None, "inputs": [], "weights": alone, "operators": [], "unknown": []}] if alone else made


def plan_summary(planned: Planned) -> dict[str, Any]:
    """What `inspect` shows: tensors with their scheme and errors, the skipped ones, the distribution of bits."""
    tensors: list[dict[str, Any]] = []
    for name, scheme in planned.plan.sites.items():
        site, errors = planned.sites[name].site, planned.table[name]
        cell = next(c for c in errors.cells if c.scheme == scheme)
        tensors.append(
            {
                "name": name,
                "shape": list(site.shape),
                "dtype": site.dtype,
                "ops": sorted({use.op for use in site.uses}),
                "nodes": [use.node for use in site.uses],
                "scheme": str(scheme),
                "bits": scheme.bits,
                "nbytes": cell.nbytes,
                "qe": cell.qe,
                "baseline_qe": errors.baseline,
                "sqnr_db": finite(_sqnr(errors.power, cell.qe)),
                "qe_by_bits": {str(c.scheme.bits): c.qe for c in errors.cells},
            }
        )
    elements = {t["name"]: int(np.prod(t["shape"])) for t in tensors}
    stored = float_nbytes(walk(planned.loaded.model))
    left = sum(nbytes for name, nbytes in stored.items() if name not in planned.plan.sites)
    total = sum(elements.values())
    counted = Counter(t["bits"] for t in tensors)
    return {
        "format": SUMMARY_FORMAT,
        "versions": {"mixquant_onnx": mixquant_onnx.__version__, "onnxruntime": version()},
        "settings": dict(planned.plan.settings),
        "nbytes_before": planned.loaded.nbytes,
        "weights": total,
        "average_bits": bits_per_weight(sum(t["nbytes"] for t in tensors), total),
        "bits": {str(bits): counted[bits] for bits in sorted(counted)},
        "tensors": tensors,
        "skipped": [
            {"name": name, "reason": reason, "nbytes": stored.get(name, 0)}
            for name, reason in planned.plan.skipped.items()
        ],
        "left_float": {"nbytes": left, "share": left / planned.loaded.nbytes},
        "notes": list(planned.notes),
    }


def run_summary(result: RunResult, planned: Planned) -> dict[str, Any]:
    """What a run shows: `plan_summary`, what was written, and the proof."""
    summary = plan_summary(replace(planned, plan=result.plan))
    for tensor in summary["tensors"]:
        tensor["nbytes"] = result.rewritten.nbytes[tensor["name"]]
        tensor["qe"] = result.qe[tensor["name"]]
        tensor["sqnr_db"] = finite(_sqnr(planned.table[tensor["name"]].power, tensor["qe"]))
        tensor["form"] = result.rewritten.forms[tensor["name"]]
    target, done = target_named(result.form.target), result.rewritten
    releases = target.oldest_runtime(done.storages.values(), done.opset[1])
    summary.update(
        nbytes_after=result.nbytes_after,
        average_bits=result.average_bits,
        opset={"before": result.rewritten.opset[0], "after": result.rewritten.opset[1]},
        files=[str(file) for file in result.files],
        notes=[
            *planned.notes,
            *result.notes,
            *result.rewritten.notes,
            *(result.verification.notes if result.verification else ()),
        ],
        releases=_releases(releases),
        verification=None if result.verification is None else _verification(result.verification),
    )
    return summary


def _releases(releases: Releases) -> dict[str, str]:
    return {"loads_from": releases.loads_from, "not_slower_from": releases.not_slower_from}


def _verification(proof: Verification) -> dict[str, Any]:
    return {
        "codes": proof.codes,
        "decoder": proof.decoder,
        "oracle_sqnr_db": finite(proof.oracle_sqnr_db),
        "samples": proof.samples,
        "synthetic": proof.synthetic,
        "origin": proof.origin if proof.samples else None,
        "data": proof.data_name,
        "in_sample": proof.in_sample,
        "optimism_db": finite(proof.optimism_db),
        "float_accuracy": proof.float_accuracy,
        "float_accuracy_interval": _interval(proof.float_accuracy_share),
        "quality": [_quality(q, proof.origin == "user") for q in proof.quality],
        "warnings": list(proof.warnings),
    }


def _quality(quality: Quality, own: bool) -> dict[str, Any]:
    """`sqnr_db` null: no output of numbers. `top1_agreement` null: no classes, or few rows that are not the user's."""
    told = quality.agreement is not None and (own or not quality.agreement.few)
    return {
        "profile": quality.profile,
        "sqnr_db": finite(quality.sqnr_db),
        "mean_sqnr_db": finite(quality.mean_sqnr_db),
        "cosine": quality.cosine,
        "top1_agreement": quality.top1_agreement if told else None,
        "agreement": _share(quality.agreement),
        "accuracy": quality.accuracy,
        "accuracy_interval": _interval(quality.accuracy_share),
        "outputs": [_output(output) for output in quality.outputs],
    }


def _output(output: OutputQuality) -> dict[str, Any]:
    return {
        "name": output.name,
        "sqnr_db": finite(output.sqnr_db),
        "decisions": output.what or None,
        "agreement": _share(output.decisions),
        "changed_shapes": output.changed_shapes,
        "feeds": output.feeds,
        "nan": output.invalid,
        "parts": [
            {
                "slices": part.slices,
                "sqnr_db": finite(part.sqnr_db),
                "peak": part.peak,
                "largest_change": finite(part.largest_change),
                "scores_over_half": _share(part.scores),
            }
            for part in output.parts
        ],
    }


def _share(share: Share | None) -> dict[str, Any] | None:
    """A share with its 95 % interval; `share` is null for fewer rows than tell one."""
    if share is None:
        return None
    told = None if share.few or not share.count else share.value
    return {"share": told, "hits": share.hits, "count": share.count, "rows": share.rows, "interval": _interval(share)}


def _interval(share: Share | None) -> list[float] | None:
    return None if share is None else [share.low, share.high]
