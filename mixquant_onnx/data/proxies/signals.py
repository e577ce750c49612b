"""Synthetic signals: speech-like and tonal waveforms, mel spectra of them, other frames, token ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.arrays import FloatArray

RATE = 16000
"""Samples per second of the waveforms."""

_VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
"""The first three formants in Hz (Peterson and Barney 1952, table II, men: AA, IY, UW, EH, AO)."""

_LOUDEST = 0.3
"""Largest amplitude."""


def wave(random: np.random.Generator, kind: int, samples: int) -> NDArray[np.float32]:
    """A waveform: speech-like for most values of `kind`, else tones, noise or near silence.

    Args:
        random: Source of pitches, vowels and loudness.
        kind: Which generator to use, modulo 8.
        samples: Its length, at RATE.

    Returns:
        [samples], -1..1.
    """
    length = max(samples, RATE // 10)
    made = (_speech, _speech, _speech, _tones, _speech, _tones, _speech, _hiss)[kind % 8](random, length)
    start = int(random.integers(0, length - samples + 1))
    return np.asarray(made[start : start + samples] * random.uniform(0.2, 1) * _LOUDEST, np.float32)


def _speech(random: np.random.Generator, length: int) -> FloatArray:
    """Harmonics of a moving pitch under moving formants, in syllables, with noise between them."""
    time = np.arange(length) / RATE
    turns = max(2, int(length / RATE * 5))
    track = np.linspace(0, turns - 1, length)
    pitch = np.interp(track, np.arange(turns), random.uniform(90, 240, turns))
    vowels = np.array([_VOWELS[k] for k in random.integers(0, len(_VOWELS), turns)], np.float64)
    formants = [np.interp(track, np.arange(turns), vowels[:, k]) for k in range(3)]
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    total, sample, coarse = np.zeros(length), np.arange(length), slice(None, None, _CONTROL)
    twice, now, before = 2 * np.cos(phase), np.sin(phase), np.zeros(length)
    for harmonic in range(1, 31):
        frequency, places = harmonic * pitch[coarse], [f[coarse] for f in formants]
        gain = sum(np.exp(-(((frequency - f) / (60 + 0.06 * f)) ** 2)) / (k + 1) for k, f in enumerate(places))
        total += np.interp(sample, sample[coarse], gain + 0.02 / harmonic) * now
        now, before = twice * now - before, now  # sin((k + 1) x) = 2 cos(x) sin(k x) - sin((k - 1) x)
    syllables = np.clip(np.sin(2 * np.pi * (random.uniform(2.5, 5) * time + random.uniform())), 0, 1)
    breath = np.diff(random.standard_normal(length + 1)) * 0.05 * (1 - syllables)
    total = total / max(float(np.abs(total).max()), 1e-9) * syllables + breath
    return np.asarray(total)


_CONTROL = 80
"""Samples (5 ms) between values of a formant's gain, which moves more slowly."""


def _tones(random: np.random.Generator, length: int) -> FloatArray:
    time = np.arange(length) / RATE
    total = np.zeros(length)
    for note in 440 * 2 ** (random.integers(-24, 24, 4) / 12):
        decay = np.exp(-random.uniform(1, 6) * ((time - random.uniform()) % 1.0))
        total += decay * sum(np.sin(2 * np.pi * k * note * time) / k for k in range(1, 5) if k * note < RATE / 2)
    return np.asarray(total / max(float(np.abs(total).max()), 1e-9))


def _hiss(random: np.random.Generator, length: int) -> FloatArray:
    return np.asarray(random.standard_normal(length) * random.choice([0.003, 0.1]))


_BANDS = (40, 64, 80, 96, 128)
"""Common numbers of mel bands."""

_WINDOW, _HOP, _TRANSFORM = 400, 160, 512
"""25 and 10 ms at RATE, and the length of the Fourier transform."""


def frames(
    random: np.random.Generator, shape: Sequence[int], fixed: Sequence[bool] = (True, True)
) -> NDArray[np.float32]:
    """Features of consecutive frames, [..., time, bands] or [..., bands, time].

    Args:
        random: Source of values.
        shape: Shape of the features.
        fixed: Whether the model fixes the last axis but one, and the last: a free one does not count bands.

    Returns:
        Mel spectra of waveforms where the number of bands is a common one, else values that change slowly along each
        axis but the first.
    """
    last = next((axis for axis in (-1, -2) if shape[axis] in _BANDS and fixed[axis]), 0)
    if not last or not shape[-3 - last]:
        return _smooth(random, shape)
    rows = int(np.prod(shape[:-2]))
    made = np.stack([_log_mel(random, row, shape[-3 - last], shape[last]) for row in range(rows)])
    turned = made if last == -1 else made.transpose(0, 2, 1)
    return np.asarray(turned.reshape(shape), np.float32)


def _log_mel(random: np.random.Generator, kind: int, count: int, bands: int) -> FloatArray:
    """[count, bands]: log power in triangular bands of equal width in mel; mean 0 and standard deviation 1."""
    samples = wave(random, kind, _WINDOW + _HOP * (count - 1))
    windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(windows, _TRANSFORM)) ** 2
    mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1) * _TRANSFORM / RATE
    place = np.arange(power.shape[1])[:, None]
    rising = (place - edges[:-2]) / np.maximum(edges[1:-1] - edges[:-2], 1)
    falling = (edges[2:] - place) / np.maximum(edges[2:] - edges[1:-1], 1)
    made = np.log(power @ np.clip(np.minimum(rising, falling), 0, None) + 1e-6)
    return np.asarray((made - made.mean()) / max(float(made.std()), 1e-6))


def _smooth(random: np.random.Generator, shape: Sequence[int]) -> NDArray[np.float32]:
    made = random.standard_normal(shape)
    for axis in range(1, len(shape)):
        if shape[axis] >= 4:
            made = made + np.roll(made, 1, axis) + np.roll(made, 2, axis)
            made /= max(float(made.std()), 1e-9)
    return np.asarray(made, np.float32)


_SPECIAL = {30522: (101, 102), 28996: (101, 102), 50265: (0, 2), 250002: (0, 2), 32128: (-1, 1), 49408: (49406, 49407)}
"""Ids that begin and end a text, by the size of the vocabulary: BERT (uncased, cased), RoBERTa, XLM-R, T5, CLIP."""

_BYTES = range(128, 384)
"""Sizes of vocabularies that are taken for bytes."""

_ZIPF = 1.1
"""Exponent of Zipf's law; about 1 for words of natural language."""

_TEXT = (
    "The model was trained on pictures of streets, houses and people; it is used to read signs.\n"
    "In 2019 about 1,250 copies were sold for $12.50 each, which is less than half of what they cost to make.\n"
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return total\n"
    '{"name": "example", "size": [12, 7], "tags": ["red", "small"], "price": 3.75, "sold": true}\n'
    "<p class='note'>Please send your answer to <a href='mailto:office@example.org'>our office</a> by Friday.</p>\n"
    "How long does it take to get there? Not more than twenty minutes, she said, unless it rains again.\n"
)


def tokens(random: np.random.Generator, shape: tuple[int, ...], limit: int) -> NDArray[np.int64]:
    """Token ids: bytes of text for vocabularies of about 256, else drawn by Zipf's law, with special ids in place.

    Vocabularies list frequent tokens first, behind special and single-letter ones.

    Args:
        random: Source of ids.
        shape: Shape of the input, [..., length].
        limit: Size of the vocabulary.

    Returns:
        Ids of shape `shape`, 0..limit - 1.
    """
    length = shape[-1] if shape else 1
    rows = max(1, int(np.prod(shape[:-1])))
    if limit in _BYTES:
        made = np.stack([_file(random, row, length, limit) for row in range(rows)])
    elif limit <= 64:
        made = random.integers(0, max(limit, 1), (rows, length))
    else:
        first = min(limit // 15, 2000)
        made = first + (random.zipf(_ZIPF, (rows, length)) - 1) % (limit - first)
        begin, end = _SPECIAL.get(limit, (-1, -1))
        if begin >= 0 and length > 1:
            made[:, 0] = begin
        if end >= 0 and length > 1:
            made[:, -1] = end
    return np.asarray(made.reshape(shape), np.int64)


def _file(random: np.random.Generator, kind: int, length: int, limit: int) -> NDArray[np.int64]:
    """`length` bytes of text; where there is an id beyond bytes it is used as padding, and every other text is shorter.

    Adding binary files gained nothing on magika (docs/research/data_free.md).
    """
    text = np.frombuffer(_TEXT.encode() * (2 + length // len(_TEXT)), np.uint8)
    start = int(random.integers(0, len(_TEXT)))
    made = text[start : start + length].astype(np.int64)
    if limit > 256 and kind % 2 == 1:
        made[int(length * random.uniform(0.2, 0.9)) :] = 256
    return made % limit
