"""Distributions of the next token as plain data and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from mixquant_onnx.report.formats import finite
from mixquant_onnx.verification.token_quality import Mean, TokenQuality


class MeanData(TypedDict):
    """A mean over tokens, and its standard error by the variance between sequences; null for a single one."""

    value: float | str | None
    error: float | None


class TokenData(TypedDict):
    """A `verification.token_quality.TokenQuality`. `kl` in nats a token, `top1` a share from 0 to 1."""

    kl: MeanData
    top1: MeanData
    perplexity: MeanData | None
    float_perplexity: MeanData | None
    sequences: int
    tokens: int


def token_data(found: TokenQuality | None) -> TokenData | None:
    """Distributions of the next token as plain data.

    Args:
        found: The comparison; None where the model gives none.

    Returns:
        Values that JSON has.
    """
    if found is None:
        return None
    return {
        "kl": _mean(found.kl),
        "top1": _mean(found.top1),
        "perplexity": None if found.perplexity is None else _mean(found.perplexity),
        "float_perplexity": None if found.float_perplexity is None else _mean(found.float_perplexity),
        "sequences": found.sequences,
        "tokens": found.tokens,
    }


def tokens_text(data: TokenData) -> str:
    """Divergence and perplexity in a few words."""
    text = f"KL {mean_text(data['kl'])} nats a token"
    if data["perplexity"] is None or data["float_perplexity"] is None:
        return text
    own, exact = (_number(mean["value"]) for mean in (data["perplexity"], data["float_perplexity"]))
    return f"{text}, perplexity {own} (float {exact})"


def mean_text(mean: MeanData | None) -> str:
    """A mean with its standard error, `0.0113 ± 0.0002`; "-" for None."""
    if mean is None:
        return "-"
    error = mean["error"]
    return _number(mean["value"]) if error is None else f"{_number(mean['value'])} ± {_number(error, 1)}"


def share_text(mean: MeanData) -> str:
    """A share with its standard error in per cent."""
    value, error = mean["value"], mean["error"]
    told = f"{100 * value:.2f}" if isinstance(value, float) else str(value)
    return f"{told} %" if error is None else f"{told} ± {100 * error:.2f} %"


def columns(data: TokenData | None) -> dict[str, Any]:
    """The values in a flat form, for CSV; None throughout where there are none."""
    found: Mapping[str, Any] = data or dict.fromkeys(TokenData.__annotations__)
    flat: dict[str, Any] = {}
    for name in ("kl", "top1", "perplexity"):
        mean = found[name]
        flat |= {name: mean and mean["value"], f"{name}_error": mean and mean["error"]}
    return flat | {name: found[name] for name in ("sequences", "tokens")}


def lines_on_tokens(rows: Sequence[TokenData]) -> list[str]:
    """What the divergence and its error are.

    Args:
        rows: Of each plan.

    Returns:
        One sentence without a period; none without rows.
    """
    if not rows:
        return []
    counts = f"{rows[0]['tokens']} tokens in {rows[0]['sequences']} sequences"
    return [f"next token: KL in nats a token against float's; ± is the standard error over sequences; {counts}"]


def _mean(mean: Mean) -> MeanData:
    return {"value": finite(mean.value), "error": mean.error}


def _number(value: float | str | None, digits: int = 3) -> str:
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
