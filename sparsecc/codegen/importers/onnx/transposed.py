"""ONNX's ConvTranspose that states the size of its result, not its padding: TVM's importer does not look at that."""

from __future__ import annotations

from typing import Any

from sparsecc.codegen.importers.base import shape_of
from sparsecc.codegen.tvm_api import onnx_frontend
from sparsecc.errors import ModelError


class ConvTransposeConverter:
    """For TVM's table of converters."""

    @classmethod
    def get_converter(cls, opset: int) -> Any:
        usual = onnx_frontend.ConvTranspose.get_converter(opset)

        def convert(builder: Any, inputs: Any, attributes: dict[str, Any], params: Any) -> Any:
            wanted, mode = attributes.get("output_shape"), attributes.get("auto_pad", b"NOTSET").decode()
            if wanted is not None or mode.startswith("SAME"):
                pads = _pads(shape_of(inputs[0])[2:], shape_of(inputs[1])[2:], attributes, wanted, mode)
                attributes = {key: value for key, value in attributes.items() if key not in ("output_shape", "auto_pad")} | {"pads": pads}
            return usual(builder, inputs, attributes, params)

        return convert


def _pads(sizes: list[int], kernel: list[int], attributes: dict[str, Any], wanted: Any, mode: str) -> list[int]:
    """All that begin, then all that end: what is too much of the whole result is cut off, the odd one at the end for SAME_UPPER."""
    axes = len(sizes)
    strides, dilations = (list(attributes.get(name, [1] * axes)) for name in ("strides", "dilations"))
    extra = list(attributes.get("output_padding", [0] * axes))
    wanted = [size * stride for size, stride in zip(sizes, strides, strict=True)] if wanted is None else list(wanted)[-axes:]
    whole = [(sizes[i] - 1) * strides[i] + extra[i] + (kernel[i] - 1) * dilations[i] + 1 for i in range(axes)]
    over = [full - size for full, size in zip(whole, wanted, strict=True)]
    if min(over) < 0:
        raise ModelError(f"its output_shape {wanted} is larger than all that it computes, {whole}")
    halves = [n // 2 for n in over]
    rest = [n - half for n, half in zip(over, halves, strict=True)]
    return [*halves, *rest] if mode == "SAME_UPPER" else [*rest, *halves]
