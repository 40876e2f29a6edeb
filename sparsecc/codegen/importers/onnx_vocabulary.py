"""The operators of `sparsecc.ops` in a converted ONNX file, as placeholders."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sparsecc import formats, precisions, structures
from sparsecc.attention.base import BlockMap, Grid, unpack_bits
from sparsecc.codegen.importers.base import Placeholder, Placeholders, conv_output_shape, shape_of, text_of
from sparsecc.codegen.tvm_api import GenericConst
from sparsecc.errors import ModelError
from sparsecc.formats.base import Packed
from sparsecc.ops import onnx_block_attention, onnx_functions, onnx_quantized, onnx_structured
from sparsecc.precisions.base import Quantized
from sparsecc.structures.base import Structured


def vocabulary_converter(op_type: str, placeholders: Placeholders) -> Any:
    """For TVM's table of converters."""
    kind = op_type.split("_", 1)[0]

    class Converter:
        @classmethod
        def get_converter(cls, opset: int) -> Any:
            return lambda builder, inputs, attributes, params: _KINDS[kind](list(inputs), attributes, placeholders)

    return Converter


def _sparse_linear(inputs: list[Any], attributes: dict[str, Any], placeholders: Placeholders) -> Any:
    packed, bias = _packed(inputs, attributes)
    placeholder = Placeholder("sparse_linear", text_of(attributes["site"]), {}, packed, bias)
    return placeholders.call(placeholder, inputs[:1], [*shape_of(inputs[0])[:-1], packed.rows])


def _sparse_conv2d(inputs: list[Any], attributes: dict[str, Any], placeholders: Placeholders) -> Any:
    packed, bias = _packed(inputs, attributes)
    names = (("kernel", "kernel_shape"), ("stride", "strides"), ("padding", "pads"), ("dilation", "dilations"))
    geometry: dict[str, Any] = {name: tuple(int(v) for v in attributes[attribute]) for name, attribute in names}
    placeholder = Placeholder("sparse_conv2d", text_of(attributes["site"]), geometry, packed, bias)
    return placeholders.call(placeholder, inputs[:1], conv_output_shape(shape_of(inputs[0]), packed.rows, geometry))


def _structured_linear(inputs: list[Any], attributes: dict[str, Any], placeholders: Placeholders) -> Any:
    structure = structures.from_key(text_of(attributes["structure"]))
    tensors, bias = _constants(inputs[1:], structure.tensor_names)
    stored = Structured(structure, int(attributes["rows"]), int(attributes["cols"]), tensors)
    placeholder = Placeholder("structured_linear", text_of(attributes["site"]), {}, stored, bias)
    return placeholders.call(placeholder, inputs[:1], [*shape_of(inputs[0])[:-1], stored.rows])


def _quantized_linear(inputs: list[Any], attributes: dict[str, Any], placeholders: Placeholders) -> Any:
    scheme = precisions.scheme_from_key(text_of(attributes["scheme"]))
    tensors, bias = _constants(inputs[1:], scheme.tensor_names)
    stored = Quantized(scheme, int(attributes["rows"]), int(attributes["cols"]), tensors)
    placeholder = Placeholder("quantized_linear", text_of(attributes["site"]), {}, stored, bias)
    return placeholders.call(placeholder, inputs[:1], [*shape_of(inputs[0])[:-1], stored.rows])


def _block_attention(inputs: list[Any], attributes: dict[str, Any], placeholders: Placeholders) -> Any:
    q, k, v, orders, keep = inputs
    frames, height, width, text = (int(size) for size in attributes["grid"])
    grid, block = Grid(frames, height, width, text, bool(attributes["text_first"])), int(attributes["block"])
    bits = unpack_bits(torch.from_numpy(_array(keep)), grid.blocks(block))
    block_map = BlockMap(grid, block, torch.from_numpy(_array(orders)), bits)
    placeholder = Placeholder("block_attention", text_of(attributes["site"]), {"map": block_map, "scale": float(attributes["scale"])})
    return placeholders.call(placeholder, [q, k, v], [*shape_of(q)[:-1], shape_of(v)[-1]])


def _packed(inputs: list[Any], attributes: dict[str, Any]) -> tuple[Packed, np.ndarray | None]:
    format = formats.from_key(text_of(attributes["format"]))
    tensors, bias = _constants(inputs[1:], format.tensor_names)
    return Packed(format, int(attributes["rows"]), int(attributes["cols"]), tensors), bias


def _constants(stored: list[Any], names: tuple[str, ...]) -> tuple[dict[str, torch.Tensor], np.ndarray | None]:
    """The tensors of a layer's weight by name, and its bias."""
    arrays = [_array(value) for value in stored]
    tensors = {name: _tensor(array) for name, array in zip(names, arrays, strict=False)}
    return tensors, arrays[len(names)] if len(arrays) > len(names) else None


def _tensor(array: np.ndarray) -> torch.Tensor:
    """torch has its own bfloat16, which numpy knows as a type of somebody else's."""
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if array.dtype.name == "bfloat16" else torch.from_numpy(array)


def _array(value: Any) -> np.ndarray:
    if not isinstance(value, GenericConst):
        raise ModelError("packed weights must be constants of the model")
    return value.value.numpy()


_KINDS = {
    onnx_functions.LINEAR: _sparse_linear,
    onnx_functions.CONV2D: _sparse_conv2d,
    onnx_structured.LINEAR: _structured_linear,
    onnx_quantized.LINEAR: _quantized_linear,
    onnx_block_attention.OP_TYPE: _block_attention,
}
