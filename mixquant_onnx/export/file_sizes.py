"""Bytes that a plan adds to a file, from the shapes of what will be written: nothing is quantized for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from onnx import GraphProto, ModelProto

from mixquant_onnx.config.stages import FormOptions
from mixquant_onnx.export.encode import encode
from mixquant_onnx.export.encodings import decoder_functions as functions
from mixquant_onnx.export.encodings.bit_planes import packed_bytes
from mixquant_onnx.export.encodings.outline import outline
from mixquant_onnx.export.encodings.sizes import (
    encoded_bytes,
    framed,
    function_bytes,
    initializer_bytes,
    node_bytes,
    stored_bytes,
)
from mixquant_onnx.export.encodings.storage import BROADCASTING_FROM_OPSET, Storage, at_opset
from mixquant_onnx.export.opset import conversion_bytes, most_conversion_bytes, opset_of
from mixquant_onnx.export.targets.table import target_named
from mixquant_onnx.export.weight_in_model import ModelFacts, WeightInModel
from mixquant_onnx.model.scopes import fresh_names
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.numerics.scheme import Scheme

Schemes = Mapping[str, Scheme]
"""Of each weight that is quantized, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One weight under one scheme: bytes of its own, and by name those of functions and tables that it shares."""

    nbytes: int
    shared: Mapping[str, int]
    calls: bool


class FileSizes:
    """What the weights of a model take in a file, float and quantized.

    Args:
        model: before any weight is replaced.
        sites: its weights by name.
        options: how they are written.
        external: whether large tensors are kept outside of the model file.
        folded: weights that never run on a fused kernel.
        wide: weights, by name, and schemes whose scales are float32; all others are float16.
    """

    def __init__(
        self,
        model: ModelProto,
        sites: Mapping[str, LocatedWeight],
        options: FormOptions,
        external: bool = False,
        folded: Collection[str] = (),
        wide: Collection[tuple[str, Scheme]] = (),
    ) -> None:
        self._model, self._sites, self._options = model, sites, options
        self._target = target_named(options.target)
        self._external, self._folded, self._wide = external, folded, wide
        self._facts = ModelFacts(model, sites)
        self._storages: dict[tuple[str, Scheme], list[Storage]] = {}
        self._pieces: dict[tuple[str, Scheme, int], Piece] = {}
        self._conversions: dict[int, int | None] = {}
        self._most: dict[int, int] = {}
        self._known = {f.name: f for f in model.functions if f.domain == functions.DOMAIN}

    def storages(self, name: str, scheme: Scheme) -> list[Storage]:
        """The storages that the weight `name` may take, the best first; `storage.at_opset` picks one."""
        key = name, scheme
        if key not in self._storages:
            weight = WeightInModel(located=self._sites[name], scheme=scheme, options=self._options, facts=self._facts)
            found = self._target.storages_for(weight)
            self._storages[key] = [s for s in found if not s.fused] if name in self._folded else found
        return self._storages[key]

    def opsets(self, chosen: Schemes) -> list[int]:
        """Opsets to raise the model to, the best first."""
        best = [self.storages(name, scheme)[0] for name, scheme in chosen.items()]
        return self._target.opsets(best, lambda opset: self._smaller_at(opset, chosen))

    def _smaller_at(self, opset: int, chosen: Schemes) -> bool:
        """Whether raising the model to `opset` makes the file smaller; also where it is there, or cannot be raised."""
        now = max(opset_of(self._model), BROADCASTING_FROM_OPSET)
        if now >= opset:
            return True
        raised = self._added(chosen, opset)
        return raised is None or raised < (self._added(chosen, now) or 0)

    def opset(self, chosen: Schemes) -> int:
        """The opset that the file will have."""
        possible = (opset for opset in self.opsets(chosen) if self._added(chosen, opset) is not None)
        return max(next(possible, 0), opset_of(self._model))

    def float_bytes(self, name: str) -> int:
        """What the weight takes now."""
        source = self._sites[name].source
        return initializer_bytes(source.tensor, self._external) if source.node is None else node_bytes(source.node)

    def piece(self, name: str, scheme: Scheme, opset: int) -> Piece:
        """The weight as it will be stored."""
        key = name, scheme, opset
        if key not in self._pieces:
            self._pieces[key] = self._piece(name, scheme, opset)
        return self._pieces[key]

    def _piece(self, name: str, scheme: Scheme, opset: int) -> Piece:
        located = self._sites[name]
        storage = at_opset(self.storages(name, scheme), opset)
        shapes = outline(located.site, scheme, wide_scales=(name, scheme) in self._wide)
        made = encode(located, shapes, storage, opset, _same, self._options.target)
        shared = {f.name: 0 if self._known.get(f.name) == f else function_bytes(f) for f in made.functions}
        in_graph, place = isinstance(located.source.scope.body, GraphProto), located.source.scope.path
        shared |= {f"{t.name} {place}".strip(): stored_bytes(t, in_graph, self._external) for t in made.tables}
        own = encoded_bytes(made, in_graph, self._external)
        return Piece(nbytes=own, shared=shared, calls=bool(made.functions))

    def more_codes(self, name: str, bits: int, others: int) -> int:
        """Bytes by which the codes alone grow from `bits` to `others` bits."""
        elements = self._sites[name].site.elements
        return packed_bytes(elements, others) - packed_bytes(elements, bits)

    def growth(self, chosen: Schemes) -> int:
        """Bytes that the file grows by (below 0: shrinks) where the weights are stored as `chosen`, others float."""
        return (self._added(chosen, self.opset(chosen)) or 0) - self._floats(chosen)

    def _floats(self, chosen: Schemes) -> int:
        return sum(self.float_bytes(name) for name in chosen)

    def _added(self, chosen: Schemes, opset: int) -> int | None:
        """Bytes of the quantized weights, their functions, and what raising the opset takes; None: it cannot be."""
        pieces = [self.piece(name, scheme, opset) for name, scheme in chosen.items()]
        shared = {name: nbytes for piece in pieces for name, nbytes in piece.shared.items()}
        calls = any(piece.calls for piece in pieces)
        imported = framed(len(functions.DOMAIN) + 4) if calls and not self._known else 0
        own = sum(piece.nbytes for piece in pieces) + sum(shared.values()) + imported
        conversion = self._conversion(opset, self._floats(chosen) - own)
        return None if conversion is None else own + conversion

    def _conversion(self, opset: int, gain: int) -> int | None:
        """Bytes of raising the opset; 0 where all that it may take is little of what there is to gain."""
        if opset <= opset_of(self._model):
            return 0
        if opset not in self._most:
            self._most[opset] = most_conversion_bytes(self._model, opset)
        if gain > _LITTLE * self._most[opset]:
            return 0
        if opset not in self._conversions:
            self._conversions[opset] = conversion_bytes(self._model, opset, fresh_names(self._model))
        return self._conversions[opset]


_LITTLE = 4
"""Converting takes seconds for a thousand nodes, and is done for sizes only where up to a quarter of the gain is at
stake."""


def _same(name: str) -> str:
    return name
