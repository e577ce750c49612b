"""Quantization as a pass of onnx_ir. Needs the package onnx-ir."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mixquant_onnx import api

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mixquant_onnx.keywords import Keywords
    from mixquant_onnx.result import RunResult


class QuantizePass(ir.passes.FunctionalPass):
    """A pass that gives a quantized copy of a model.

    Args:
        **options: As of `mixquant_onnx.quantize`.

    Attributes:
        result: The plan and the verification of the last call; None before the first.
    """

    def __init__(self, **options: Unpack[Keywords]) -> None:
        super().__init__()
        self._options = options
        self.result: RunResult | None = None

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Quantize and verify.

        Args:
            model: The model; it is not changed.

        Returns:
            The quantized model.

        Raises:
            MixquantError: See `errors`. Called as a pass, onnx_ir raises a PassError from it.
        """
        self.result = api.quantize(ir.to_proto(model), **self._options)
        return ir.passes.PassResult(ir.from_proto(self.result.model), modified=bool(self.result.plan.sites))
