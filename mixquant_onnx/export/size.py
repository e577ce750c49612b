"""Which weights to store quantized: a file never grows, and no tensor is quantized at a loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mixquant_onnx.export.file_sizes import FileSizes
from mixquant_onnx.numerics.scheme import Scheme

Alternatives = Mapping[str, Sequence[Scheme]]
"""Other schemes for a weight, each at least as accurate as the chosen one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Weights to store quantized.

    Attributes:
        schemes: Their schemes by name.
        left_float: Why each other weight of the plan stays float.
    """

    schemes: Mapping[str, Scheme]
    left_float: Mapping[str, str]


def worth_storing(sizes: FileSizes, chosen: Mapping[str, Scheme], alternatives: Alternatives) -> Stored:
    """The part of a plan that makes the file smaller.

    A weight that takes no fewer bytes than in float stays float. Weights that share a function which takes more than it
    saves stay float, or change to another width together, whichever makes the smaller file; so do those that would
    share a function with others at fewer bytes. Each step makes the file smaller, so the search terminates.

    Args:
        sizes: Sizes of weights and functions.
        chosen: The plan: schemes by name.
        alternatives: Other schemes of each weight.

    Returns:
        Schemes in the order of `chosen`, and reasons.
    """
    kept, left = dict(chosen), dict[str, str]()
    while True:
        opset = sizes.opset(kept)
        _drop_single(sizes, kept, opset, left)
        move = _best_move(sizes, kept, alternatives, opset)
        if move is None:
            break
        _apply(move, kept, left)
    if kept and sizes.growth(kept) >= 0:
        left |= dict.fromkeys(kept, "what all weights share in the file takes more bytes than they save")
        kept = {}
    return Stored(schemes=kept, left_float=left)


def _drop_single(sizes: FileSizes, kept: dict[str, Scheme], opset: int, left: dict[str, str]) -> None:
    for name, scheme in list(kept.items()):
        stored, now = sizes.piece(name, scheme, opset).nbytes, sizes.float_bytes(name)
        if stored >= now:
            left[name] = f"{scheme.bits} bits with scales and names would take as much as float ({stored}, {now} bytes)"
            del kept[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Move:
    """New schemes of some weights; None for float, because of `function`."""

    schemes: Mapping[str, Scheme | None]
    function: str
    saved: int


def _apply(move: _Move, kept: dict[str, Scheme], left: dict[str, str]) -> None:
    for name, scheme in move.schemes.items():
        if scheme is None:
            left[name] = f"its function {move.function} takes as many bytes as it saves"
            del kept[name]
        else:
            kept[name] = scheme


def _best_move(sizes: FileSizes, kept: Mapping[str, Scheme], alternatives: Alternatives, opset: int) -> _Move | None:
    """The change to all weights of one function that reduces the file most; None where none does."""
    users = _users(sizes, kept, opset)
    best: _Move | None = None
    for function, names in users.items():
        for changed in _changes(sizes, kept, names, alternatives, opset):
            saved = _saved(sizes, kept, changed, users, opset)
            least = 0 if None in changed.values() else 1
            if saved >= least and (best is None or saved > best.saved):
                best = _Move(schemes=changed, function=function, saved=saved)
    return best


def _users(sizes: FileSizes, kept: Mapping[str, Scheme], opset: int) -> dict[str, list[str]]:
    """The weights that call each function."""
    users: dict[str, list[str]] = {}
    for name, scheme in kept.items():
        for function in sizes.piece(name, scheme, opset).shared:
            users.setdefault(function, []).append(name)
    return users


def _changes(
    sizes: FileSizes, kept: Mapping[str, Scheme], names: Sequence[str], alternatives: Alternatives, opset: int
) -> Iterator[dict[str, Scheme | None]]:
    """All of `names` float, or each with its smallest alternative of one other width."""
    yield dict.fromkeys(names)
    now = {kept[name].bits for name in names}
    most = _function_bytes(sizes, kept, names, opset)
    for bits in sorted({s.bits for name in names for s in alternatives.get(name, ())} - now):
        own = {n: [s for s in alternatives.get(n, ()) if s.bits == bits] for n in names}
        if all(own.values()) and sum(sizes.more_codes(n, kept[n].bits, bits) for n in names) < most:
            yield {n: min(found, key=lambda s: sizes.piece(n, s, opset).nbytes) for n, found in own.items()}


def _function_bytes(sizes: FileSizes, kept: Mapping[str, Scheme], names: Sequence[str], opset: int) -> int:
    """Size of all functions that `names` call: no other width can save more."""
    called: dict[str, int] = {}
    for name in names:
        called.update(sizes.piece(name, kept[name], opset).shared)
    return sum(called.values())


def _saved(
    sizes: FileSizes,
    kept: Mapping[str, Scheme],
    changed: Mapping[str, Scheme | None],
    users: Mapping[str, Sequence[str]],
    opset: int,
) -> int:
    """Bytes by which the file shrinks: of the weights themselves, and of functions that are added or dropped."""
    saved, calls = 0, Counter[str]()
    now, needed = dict[str, int](), dict[str, int]()
    for name, scheme in changed.items():
        old = sizes.piece(name, kept[name], opset)
        calls.update(old.shared.keys())
        now.update(old.shared)
        saved += old.nbytes
        if scheme is None:
            saved -= sizes.float_bytes(name)
        else:
            new = sizes.piece(name, scheme, opset)
            saved -= new.nbytes
            needed.update(new.shared)
    idle = [nbytes for f, nbytes in now.items() if calls[f] == len(users[f]) and f not in needed]
    return saved + sum(idle) - sum(nbytes for f, nbytes in needed.items() if f not in users)
