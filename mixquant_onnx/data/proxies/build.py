"""Build proxy batches from the roles of a model's inputs; of several plausible sizes, the first that run are used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from onnx import ModelProto

from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.decoder import decoder_of
from mixquant_onnx.data.proxies.agreement import Agreement
from mixquant_onnx.data.proxies.decoders import decoder_feeds, texts
from mixquant_onnx.data.proxies.maker import Maker
from mixquant_onnx.data.proxies.roles import KNOWN, Kind, Role, roles_of
from mixquant_onnx.data.proxies.shapes import Shapes, Sizes, readings, sizes_of, told_sizes
from mixquant_onnx.data.proxies.value_ranges import ranges_of
from mixquant_onnx.data.steps import run_or_none
from mixquant_onnx.data.work import multiplications
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime.session import Feed, Session

ROWS = 48
"""Samples that are generated; MobileNetV2 and EfficientNet-Lite0 gain up to this number (docs/research/accuracy.md)."""

_FEWEST = 16
"""Fewest samples, for models that are slow or have large inputs: the least that can be split (`data.split`)."""

_BATCH = 4
"""Samples per batch, where the batch size is free; affects memory alone."""

_LARGE = 10**10
"""Multiplications per sample beyond which only the fewest samples are generated: about half a second on two cores. Time
is not measured, so that the number of samples does not depend on the load of the machine.
"""

_MOST_AT_ONCE = 1 << 21
"""Most values in a batch of several samples: some layers of a network hold many times more."""

_MOST_VALUES = 1 << 26
"""Most values of all samples together."""

_TRIED = 3
"""Batches of `_BATCH` pictures that are run to determine the expected value range."""

_NAMES: dict[Kind, str] = {
    "picture": "proxy photographs",
    "tokens": "proxy texts",
    "wave": "proxy sounds",
}


def proxy_data(model: ModelProto, session: Session) -> Data | None:
    """Generate samples of the kind that a model reads.

    Args:
        model: The float model.
        session: The same model, loaded.

    Returns:
        Data on which the model runs without NaN; None where the kind of its inputs is not known, or no attempt runs.
    """
    decoder = decoder_of(model, encoded=True)
    if decoder is not None and decoder.caches:
        feeds = decoder_feeds(model, decoder, session, texts(decoder))
        if feeds:
            return Data(feeds=tuple(feeds), labels=None, origin="proxy", name=_NAMES["tokens"])
    roles = roles_of(model)
    if not any(role.kind in KNOWN for role in roles):
        return None
    made = _of_good_size(roles, session, model)
    if made is None:
        return None
    rows = _rows(made, multiplications(model, made.shapes))
    return _data(_in_range(made, model), session, rows)


def _of_good_size(roles: Sequence[Role], session: Session, model: ModelProto) -> Maker | None:
    """For free sizes, the first that agree with the declared shapes and run; else the first that run."""
    usual = list(_candidates(roles, sizes_of(model)))
    if any(not isinstance(d, int) for role in roles for d in role.dims):
        agreement = Agreement(model)
        others = _candidates(roles, told_sizes(agreement.numbers()))
        agreeing = (made for made in (*usual, *others) if agreement.fits(made.shapes))
        found = next((made for made in agreeing if run_or_none(session, made.feed(0)) is not None), None)
        if found is not None:
            return found
    return next((made for made in usual if run_or_none(session, made.feed(0)) is not None), None)


def _candidates(roles: Sequence[Role], tried: Sequence[Sizes]) -> Iterator[Maker]:
    """Makers for each guess of sizes: with several samples per batch where possible, and with one."""
    seen: list[Shapes] = []
    for sizes in tried:
        for batch in (_BATCH, 1):
            if batch > 1 and not all(_may_be_many(role) for role in roles):
                continue
            for shapes in readings(roles, sizes, batch):
                large = batch > 1 and sum(map(math.prod, shapes.values())) > _MOST_AT_ONCE
                if not large and shapes not in seen:
                    seen.append(shapes)
                    yield Maker(roles, shapes, sizes.length)


def _rows(made: Maker, work: int) -> int:
    rows = ROWS if work // made.rows <= _LARGE else _FEWEST
    values = sum(a.size for a in made.feed(0).values()) // made.rows
    return max(_FEWEST, min(rows, _MOST_VALUES // max(values, 1)))


def _may_be_many(role: Role) -> bool:
    """Whether a batch may hold several samples: the batch size is free, or all samples share the input."""
    if role.batch is None:
        alike = role.kind in ("rate", "positions", "constant", "length", "time", "side", "zeros", "mask")
        return alike and len(role.dims) < 2 and all(isinstance(d, int) for d in role.dims)
    return not isinstance(role.dims[role.batch], int)


def _in_range(made: Maker, model: ModelProto) -> Maker:
    """The maker with the value ranges that the model expects of pictures."""
    role = next((r for r in made.roles if r.kind == "picture" and r.input.dtype.kind == "f"), None)
    if role is None:
        return made
    alone = made.of_one_row()
    first = [k * made.rows * 3 + row for k in range(_TRIED) for row in range(0, made.rows, alone.rows)]

    def feeds_in(name: str) -> list[Feed]:
        few = alone.in_ranges((name,))
        return [few.feed(row) for row in first]

    return made.in_ranges(ranges_of(model, role.input.name, feeds_in))


def _data(made: Maker, session: Session, rows: int) -> Data | None:
    """Batches on which the model runs, with recurrent states passed on; None where it runs on none."""
    feeds: list[Feed] = []
    state: dict[str, FloatArray] = {}
    recurrent = [role for role in made.roles if role.kind == "state"]
    for number in range(max(_FEWEST_FEEDS, -(-rows // made.rows))):
        feed = {**made.feed(number * made.rows), **state}
        state = {}
        outputs = run_or_none(session, feed)
        if outputs is None:
            continue
        feeds.append(feed)
        given = dict(zip(session.outputs, outputs, strict=True))
        fits = all(given[r.output].shape == feed[r.input.name].shape for r in recurrent)
        if fits and (number + 1) % _RESTART:
            state = {r.input.name: given[r.output] for r in recurrent}
    kind = next((r.kind for r in made.roles if r.kind in _NAMES), None)
    name = _NAMES.get(kind, "proxy inputs") if kind else "proxy inputs"
    return Data(feeds=tuple(feeds), labels=None, origin="proxy", name=name) if feeds else None


_FEWEST_FEEDS = 4
"""Fewest batches, where the model fixes a large batch size: batches that cannot be split are divided as they are."""

_RESTART = 8
"""Batches after which a recurrent state is reset to zero."""
