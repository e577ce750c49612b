"""The complete verification of one written model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from mixquant_onnx.data.noise import Data
from mixquant_onnx.data.outputs import reference_outputs
from mixquant_onnx.errors import ProofError
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.export.encodings.int8_kernel import Int8Kernel
from mixquant_onnx.export.packed_operators import plain_operators
from mixquant_onnx.export.quantized_lstm import plain_lstms
from mixquant_onnx.export.rewrite import Rewritten
from mixquant_onnx.model.files import Loaded
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.runtime.session import RuntimeFailure, Session
from mixquant_onnx.verification.classes import class_axes
from mixquant_onnx.verification.codes import verify_codes
from mixquant_onnx.verification.equivalence import check_equivalence, dequantized_weights
from mixquant_onnx.verification.labels import chance_words, class_count, float_accuracy
from mixquant_onnx.verification.lstms import check_lstms
from mixquant_onnx.verification.next_tokens import token_output
from mixquant_onnx.verification.packed import check_packed
from mixquant_onnx.verification.quality import Quality, session_quality
from mixquant_onnx.verification.result import Verification
from mixquant_onnx.verification.saturation import overflowing
from mixquant_onnx.verification.statistics import Share
from mixquant_onnx.verification.warnings import MORE_BITS, on_integers, warnings_of

_STEPS = 4
"""Steps that `verify` reports: sessions, codes, float outputs, comparisons."""


def verify(
    loaded: Loaded,
    saved: ModelProto,
    sites: Mapping[str, LocatedWeight],
    quantized: Mapping[str, QuantizedTensor],
    rewritten: Rewritten,
    source: ModelProto | Path,
    data: Data | None,
    refusal: str | None = None,
    progress: Progress = quiet,
    *,
    in_sample: bool = False,
    optimism_db: float | None = None,
    advice: str = MORE_BITS,
) -> Verification:
    """Check a written model and compare its outputs with the float model's.

    More than 40 lines because of its arguments; the code itself is 27.

    Args:
        loaded: The float model, and the one whose weights were quantized; these are replaced during the check and
            restored.
        saved: The written model, as loaded from its file.
        sites: Weights of `loaded.model`, by name.
        quantized: The quantized weights, by name.
        rewritten: What the rewrite did to each weight.
        source: What ONNX Runtime loads: the written file, or the model where there is no file.
        data: Samples to compare outputs on, where there are any.
        refusal: Why ONNX Runtime does not load the float model, where it does not.
        progress: Called with the stage "verify".
        in_sample: Whether the weights were fitted to `data`.
        optimism_db: By how many dB the metrics are then better than on other samples, where that is known.
        advice: What to do where quality is low.

    Returns:
        What was checked, and the quality of the outputs.

    Raises:
        ProofError: A check failed.
        DataError: The float model does not run on `data`, or labels do not fit it.
    """
    progress("verify", 0, _STEPS)
    sessions = [] if refusal is not None else _sessions(source)
    progress("verify", 1, _STEPS)
    plain = _in_standard_operators(saved, rewritten, bool(sessions))
    decoder = verify_codes(plain, sites, quantized, rewritten.values, rewritten.transposed)
    progress("verify", 2, _STEPS)
    outputs = _NOT_COMPARED
    if sessions and data is not None:
        outputs = _compared(loaded, plain, sites, quantized, sessions, data, progress, plain is saved)
    progress("verify", 4, _STEPS)
    return Verification(
        codes=len(quantized),
        decoder=decoder,
        reference_sqnr_db=outputs.reference_sqnr_db,
        quality=outputs.quality,
        float_accuracy_share=outputs.float_accuracy,
        samples=0 if data is None else data.rows,
        origin="user" if data is None else data.origin,
        data_name="" if data is None else data.name,
        notes=_notes(refusal, data, outputs),
        warnings=_warnings(outputs, data, rewritten, advice),
        in_sample=in_sample,
        optimism_db=optimism_db,
        overflowing=overflowing(quantized, rewritten.storages),
    )


def _in_standard_operators(saved: ModelProto, rewritten: Rewritten, runs: bool) -> ModelProto:
    """The model with LSTM, MatMul and Gather in place of kernels on codes. Raises ProofError where these differ."""
    plain = plain_lstms(saved)
    if plain is not saved and runs:
        check_lstms(saved, plain)
    if rewritten.packed and runs:
        check_packed(saved, rewritten.packed)
    return plain_operators(plain, rewritten.packed)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outputs:
    """Result of the comparison of outputs.

    `reference_sqnr_db` is None for a random model, or if nothing was compared.
    """

    reference_sqnr_db: float | None = None
    quality: tuple[Quality, ...] = ()
    float_accuracy: Share | None = None
    classes: int | None = None


_NOT_COMPARED = _Outputs()


def _warnings(outputs: _Outputs, data: Data | None, rewritten: Rewritten, advice: str) -> tuple[str, ...]:
    integer = any(isinstance(storage, Int8Kernel) for storage in rewritten.storages.values())
    origin = None if data is None else data.origin
    low = warnings_of(outputs.quality, outputs.float_accuracy, origin, on_integers(advice) if integer else advice)
    return (*chance_words(outputs.float_accuracy, outputs.classes), *low)


def _sessions(source: ModelProto | Path) -> list[Session]:
    """One session per profile. Raises ProofError."""
    try:
        return [Session(source, "exact"), Session(source, "deployed")]
    except RuntimeFailure as failure:
        raise ProofError(f"verification failed: ONNX Runtime does not load the result ({failure})") from failure


def _compared(
    loaded: Loaded, saved: ModelProto, sites: Mapping[str, LocatedWeight],
    quantized: Mapping[str, QuantizedTensor],
    sessions: list[Session], data: Data, progress: Progress, as_written: bool,
) -> _Outputs:  # fmt: skip
    """Compare outputs with the reference with the same weights, then with the float model's."""
    original = loaded.float_model
    session = Session(original)
    wanted = reference_outputs(session, data)
    axes = class_axes(original, wanted, session.outputs)
    accuracy = float_accuracy(wanted, data, session.outputs, axes)
    progress("verify", 3, _STEPS)
    with dequantized_weights(sites, quantized):
        exact = sessions[0] if as_written else Session(saved, "exact")
        ratio = check_equivalence(saved, loaded.model, exact, data, {q.dtype for q in quantized.values()})
    tokens = token_output(session, data, wanted, axes)
    quality = tuple(session_quality(wanted, one, data, axes, tokens) for one in sessions)
    count = class_count(wanted, session.outputs, axes)
    return _Outputs(reference_sqnr_db=ratio, quality=quality, float_accuracy=accuracy, classes=count)


def _notes(refusal: str | None, data: Data | None, outputs: _Outputs) -> tuple[str, ...]:
    """What was not checked, and why."""
    if refusal is not None:
        return (f"ONNX Runtime does not load the float model here ({refusal}); the verification is on the codes alone",)
    if data is None:
        return ("outputs were not compared: no generated input runs on the float model; give --data",)
    if outputs.reference_sqnr_db is None:
        return ("the model's outputs change from run to run; those of the same weights in float were not compared",)
    return ()
