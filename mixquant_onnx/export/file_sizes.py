"""Bytes that a plan adds to a file, from the shapes of what will be written: nothing is quantized for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from onnx import GraphProto, ModelProto

from mixquant_onnx.config.stages import FormOptions
from mixquant_onnx.export.encodings import decoder_functions as functions
from mixquant_onnx.export.encodings.bit_planes import packed_bytes
from mixquant_onnx.export.encodings.encoder import outline
from mixquant_onnx.export.encodings.sizes import encoded_bytes, framed, function_bytes, initializer_bytes, node_bytes
from mixquant_onnx.export.integer_kernels import cannot_be_fused, dequantized_values, meets_dequantized
from mixquant_onnx.export.opset import conversion_bytes, most_conversion_bytes, opset_of
from mixquant_onnx.export.pieces import BROADCASTING_FROM, SMALL_INTS_FROM_OPSET, encode, kernel_of, opset_of_form
from mixquant_onnx.export.targets.forms import Kernel
from mixquant_onnx.model.product_rows import Shape, shapes_of
from mixquant_onnx.model.scopes import fresh_names
from mixquant_onnx.model.weights import LocatedSite, weight_values
from mixquant_onnx.numerics.granularity import effective_grid, to_rows
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.quantization.ranges.minmax import fit

Schemes = Mapping[str, Scheme]
"""Of each weight that is quantized, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One weight under one scheme: bytes of its own, and by name those of the functions that it shares."""

    nbytes: int
    functions: Mapping[str, int]


class FileSizes:
    """What the weights of `model` take in a file of the forms of `options`, float and quantized.

    `external`: tensors are kept outside of the model file. `folded`: weights that never run on a fused kernel.
    """

    def __init__(
        self,
        model: ModelProto,
        sites: Mapping[str, LocatedSite],
        options: FormOptions,
        external: bool = False,
        folded: Collection[str] = (),
    ) -> None:
        self._model, self._sites, self._options = model, sites, options
        self._external, self._folded = external, folded
        self._kernels: dict[tuple[str, Scheme], Kernel | None] = {}
        self._pieces: dict[tuple[str, Scheme, int], Piece] = {}
        self._conversions: dict[int, int | None] = {}
        self._most: dict[int, int] = {}
        self._known = {f.name: f for f in model.functions if f.domain == functions.DOMAIN}

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        return shapes_of(self._model)

    def kernel(self, name: str, scheme: Scheme) -> Kernel | None:
        """The fused kernel of this weight, if the opset allows it."""
        key = name, scheme
        if key not in self._kernels:
            folded = name in self._folded
            folded |= any(meets_dequantized(reader, self._dequantized) for reader in self._sites[name].readers)
            found = None if folded else kernel_of(self._sites[name], scheme, self._options, lambda: self._shapes)
            self._kernels[key] = found
        return self._kernels[key]

    @cached_property
    def _dequantized(self) -> frozenset[str]:
        weights = [located.source.name for located in self._sites.values()] if self._options.target == "qdq" else []
        return dequantized_values(self._model, weights)

    def form_options(self, name: str, scheme: Scheme) -> FormOptions:
        """Those of this weight: folded where ONNX Runtime would fuse its DequantizeLinear into what does not run."""
        broken = cannot_be_fused(self._sites[name], scheme, self._dequantized)
        return replace(self._options, target="ort") if broken else self._options

    def opsets(self, chosen: Schemes) -> list[int]:
        """Opsets to raise the model to, the best first; a raise for smaller functions alone only where it pays."""
        forms = {opset_of_form(self._sites[n].site, s, self.kernel(n, s), self._options) for n, s in chosen.items()}
        wanted = sorted(forms | {BROADCASTING_FROM}, reverse=True)
        if wanted[0] != SMALL_INTS_FROM_OPSET or self._options.target == "qdq":
            return wanted
        now = max(opset_of(self._model), BROADCASTING_FROM)
        if now >= SMALL_INTS_FROM_OPSET:
            return wanted
        raised = self._added(chosen, SMALL_INTS_FROM_OPSET)
        return wanted[1:] if raised is not None and raised >= (self._added(chosen, now) or 0) else wanted

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
        kernel = self.kernel(name, scheme) if opset >= 21 else None
        shapes = outline(located.site, scheme, wide_scales=_has_wide_scales(located, scheme))
        made = encode(located, shapes, kernel, self.form_options(name, scheme), opset, _same)[0]
        shared = {f.name: 0 if self._known.get(f.name) == f else function_bytes(f) for f in made.functions}
        in_graph = isinstance(located.source.scope.body, GraphProto)
        return Piece(nbytes=encoded_bytes(made, in_graph, self._external), functions=shared)

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
        shared = {name: nbytes for piece in pieces for name, nbytes in piece.functions.items()}
        imported = framed(len(functions.DOMAIN) + 4) if shared and not self._known else 0
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

_ALWAYS_WORTH_IT = 1 << 13
"""Weights of a tensor from which on the bytes of its scales do not decide whether it is stored quantized."""


def _has_wide_scales(located: LocatedSite, scheme: Scheme) -> bool:
    """Whether a scale is too small for float16; of large weights that is not asked."""
    site = located.site
    if site.elements >= _ALWAYS_WORTH_IT:
        return False
    values = np.ascontiguousarray(weight_values(located), np.float32)
    rows = to_rows(values, site.layout, effective_grid(site.shape, site.layout, scheme.grid))
    return fit(rows, scheme.bits, scheme.symmetric)[0].dtype == np.float32


def _same(name: str) -> str:
    return name
