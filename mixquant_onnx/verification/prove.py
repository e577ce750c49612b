"""The proof of one written model, as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnx import ModelProto

from mixquant_onnx.data.noise import Data
from mixquant_onnx.data.outputs import reference_outputs
from mixquant_onnx.errors import ProofError
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.export.rewrite import Rewritten
from mixquant_onnx.model.weights import LocatedSite
from mixquant_onnx.numerics.scheme import Quantized
from mixquant_onnx.runtime.session import RuntimeFailure, Session
from mixquant_onnx.verification import verify
from mixquant_onnx.verification.classes import class_axes
from mixquant_onnx.verification.codes import prove_codes
from mixquant_onnx.verification.quality import Quality
from mixquant_onnx.verification.statistics import Share
from mixquant_onnx.verification.warnings import warnings_of


def prove(
    original: ModelProto,
    saved: ModelProto,
    sites: Mapping[str, LocatedSite],
    quantized: Mapping[str, Quantized],
    rewritten: Rewritten,
    source: ModelProto | Path,
    data: Data | None,
    refusal: str | None = None,
    progress: Progress = quiet,
    *,
    in_sample: bool = False,
    optimism_db: float | None = None,
) -> verify.Verification:
    """Run every check on `saved` (at `source`). Raises ProofError.

    `refusal`: why ONNX Runtime does not load the float model, where it does not. `in_sample`: the weights were
    fitted to `data`; figures are better than on other rows by about `optimism_db`, where that is known.
    """
    notes: list[str] = []
    progress("proof", 0, 4)
    sessions: list[Session] = []
    if refusal is not None:
        notes.append(f"ONNX Runtime does not load the float model here ({refusal}); the proof is on the codes alone")
    else:
        try:
            sessions = [Session(source, "exact"), Session(source, "deployed")]
        except RuntimeFailure as failure:
            raise ProofError(f"proof failed: ONNX Runtime does not load the result ({failure})") from failure
    progress("proof", 1, 4)
    decoder = prove_codes(saved, sites, quantized, rewritten.values, rewritten.transposed)
    progress("proof", 2, 4)
    ratio: float | None = None
    quality: tuple[Quality, ...] = ()
    accuracy: Share | None = None
    if sessions and data is None:
        notes.append("outputs were not compared: no generated input runs on the float model; give --data")
    if sessions and data is not None:
        session = Session(original)
        reference = reference_outputs(session, data)
        axes = class_axes(original, reference, session.outputs)
        accuracy = verify.float_accuracy(reference, data, session.outputs, axes)
        progress("proof", 3, 4)
        with verify.oracle(sites, quantized):
            ratio = verify.check_oracle(saved, original, sessions[0], data, {q.dtype for q in quantized.values()})
        if ratio is None:
            notes.append("the model gives other outputs at every run; they are not compared with its oracle")
        quality = tuple(verify.quality_of(reference, s, data, axes) for s in sessions)
    progress("proof", 4, 4)
    return verify.Verification(
        codes=len(quantized),
        decoder=decoder,
        oracle_sqnr_db=ratio,
        quality=quality,
        float_accuracy_share=accuracy,
        samples=0 if data is None else verify.sample_count(data),
        origin="user" if data is None else data.origin,
        data_name="" if data is None else data.name,
        notes=tuple(notes),
        warnings=warnings_of(quality, accuracy, None if data is None else data.origin),
        in_sample=in_sample,
        optimism_db=optimism_db,
    )
