"""The operators of `sparsecc.ops` in an FX graph, as placeholders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from sparsecc import formats, structures
from sparsecc.codegen.importers.base import Placeholder, Placeholders, args_of, conv_output_shape, shape_of
from sparsecc.formats.base import Packed
from sparsecc.ops import quantized_linear
from sparsecc.ops.block_attention import restore
from sparsecc.structures.base import Structured

if TYPE_CHECKING:
    import numpy as np

Tensors = Mapping[str, torch.Tensor]  # parameters, buffers and constants by the name of their graph input
Place = Callable[[fx.Node, Any, Placeholders, Tensors], Any]


def _sparse_linear(node: fx.Node, importer: Any, placeholders: Placeholders, tensors: Tensors) -> Any:
    *_, rows, cols, name = args_of(node)
    return _linear(node, importer, placeholders, Placeholder("sparse_linear", name, {}, *_packed(node, tensors, rows, cols)))


def _structured_linear(node: fx.Node, importer: Any, placeholders: Placeholders, tensors: Tensors) -> Any:
    _, factors, bias, key, rows, cols, name = args_of(node)
    structure = structures.from_key(key)
    stored = Structured(structure, rows, cols, _by_name(structure.tensor_names, factors, tensors))
    return _linear(node, importer, placeholders, Placeholder("structured_linear", name, {}, stored, _bias(bias, tensors)))


def _quantized_linear(node: fx.Node, importer: Any, placeholders: Placeholders, tensors: Tensors) -> Any:
    _, weight, bias, key, rows, cols, name = args_of(node)
    stored = quantized_linear.restore([tensors[node.name] for node in weight], key, rows, cols)
    return _linear(node, importer, placeholders, Placeholder("quantized_linear", name, {}, stored, _bias(bias, tensors)))


def _linear(node: fx.Node, importer: Any, placeholders: Placeholders, layer: Placeholder) -> Any:
    x = importer.env[node.args[0]]
    assert layer.stored is not None
    return importer.block_builder.emit(placeholders.call(layer, [x], [*shape_of(x)[:-1], layer.stored.rows]))


def _sparse_conv2d(node: fx.Node, importer: Any, placeholders: Placeholders, tensors: Tensors) -> Any:
    x = importer.env[node.args[0]]
    *_, rows, kernel, stride, padding, dilation, name = args_of(node)
    packed, bias = _packed(node, tensors, rows, kernel[0] * kernel[1] * shape_of(x)[1])
    attributes = {"kernel": tuple(kernel), "stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)}
    placeholder = Placeholder("sparse_conv2d", name, attributes, packed, bias)
    return importer.block_builder.emit(placeholders.call(placeholder, [x], conv_output_shape(shape_of(x), rows, attributes)))


def _block_attention(node: fx.Node, importer: Any, placeholders: Placeholders, tensors: Tensors) -> Any:
    q, k, v, orders, keep, grid, text_first, block, scale, name = args_of(node)
    block_map = restore(tensors[orders.name], tensors[keep.name], grid, text_first, block)
    args = [importer.env[x] for x in (q, k, v)]
    placeholder = Placeholder("block_attention", name, {"map": block_map, "scale": scale})
    return importer.block_builder.emit(placeholders.call(placeholder, args, [*shape_of(args[0])[:-1], shape_of(args[2])[-1]]))


def _packed(node: fx.Node, tensors: Tensors, rows: int, cols: int) -> tuple[Packed, np.ndarray | None]:
    _, packed, bias, key = args_of(node)[:4]
    format = formats.from_key(key)
    return Packed(format, rows, cols, _by_name(format.tensor_names, packed, tensors)), _bias(bias, tensors)


def _by_name(names: Sequence[str], nodes: Sequence[fx.Node], tensors: Tensors) -> dict[str, torch.Tensor]:
    return dict(zip(names, (tensors[node.name] for node in nodes), strict=True))


def _bias(node: fx.Node | None, tensors: Tensors) -> np.ndarray | None:
    return None if node is None else tensors[node.name].numpy()


VOCABULARY: dict[str, Place] = {
    "sparse_linear.default": _sparse_linear,
    "sparse_conv2d.default": _sparse_conv2d,
    "structured_linear.default": _structured_linear,
    "quantized_linear.default": _quantized_linear,
    "block_attention.default": _block_attention,
}
