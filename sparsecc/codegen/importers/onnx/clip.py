"""ONNX's Clip with constant bounds as Relax's clip, which recognizers know; TVM's own is functions of its, with a test of each bound."""

from __future__ import annotations

import math
from typing import Any

from sparsecc.codegen.tvm_api import GenericConst, onnx_frontend, relax


def clip_converter() -> Any:
    """For TVM's table of converters."""

    class Converter:
        @classmethod
        def get_converter(cls, opset: int) -> Any:
            usual = onnx_frontend.Clip.get_converter(opset)

            def convert(builder: Any, inputs: Any, attributes: dict[str, Any], params: Any) -> Any:
                x = inputs[0]
                low, high = (_number(attributes, inputs, name, place, opset) for name, place in (("min", 1), ("max", 2)))
                if x.ty.dtype.dtype != "float32" or low is None or high is None:
                    return usual(builder, inputs, attributes, params)
                return relax.op.clip(x, min(low, high), high)  # where they cross, all is the upper one

            return convert

    return Converter


def _number(attributes: dict[str, Any], inputs: Any, name: str, place: int, opset: int) -> float | None:
    """A finite bound that the model states; None otherwise."""
    bound: Any = attributes.get(name) if opset < 11 else inputs[place] if place < len(inputs) else None
    if isinstance(bound, GenericConst):
        bound = bound.value.numpy().item()
    return float(bound) if isinstance(bound, (int, float)) and math.isfinite(bound) else None
