"""The operators of `sparsecc.ops` in an FX graph, as placeholders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from sparsecc import ops, registry
from sparsecc.codegen.importers.base import Placeholder, Placeholders, added, args_of, arguments, by_site, conv_output_shape, shape_of
from sparsecc.codegen.importers.fx.dynamic_attention import dynamic_block_attention
from sparsecc.graph.fx.layers import operator_of
from sparsecc.ops.block_attention.torch import restore

if TYPE_CHECKING:
    import numpy as np

    from sparsecc.forms import Form

Tensors = Mapping[str, torch.Tensor]  # parameters, buffers and constants by the name of their graph input
Place = Callable[[fx.Node, Any, Placeholders, Tensors], Any]


def _linear(node: fx.Node, importer: Any, placeholders: Placeholders, tensors: Tensors) -> Any:
    *_, rows, cols, name = args_of(node)
    x = importer.env[node.args[0]]
    placeholder = Placeholder("linear", name, {}, *_weight_and_bias(node, tensors, rows, cols))
    return importer.block_builder.emit(placeholders.call(placeholder, [x], [*shape_of(x)[:-1], rows]))


def _conv2d(node: fx.Node, importer: Any, placeholders: Placeholders, tensors: Tensors) -> Any:
    x = importer.env[node.args[0]]
    *_, rows, kernel, stride, padding, dilation, name = args_of(node)
    attributes = {"kernel": tuple(kernel), "stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)}
    cols = kernel[0] * kernel[1] * shape_of(x)[1]
    placeholder = Placeholder("conv2d", name, attributes, *_weight_and_bias(node, tensors, rows, cols))
    return importer.block_builder.emit(placeholders.call(placeholder, [x], conv_output_shape(shape_of(x), rows, attributes)))


def _block_attention(node: fx.Node, importer: Any, placeholders: Placeholders, tensors: Tensors) -> Any:
    if node.target is torch.ops.sparsecc.dynamic_block_attention.default:
        return dynamic_block_attention(node, importer, placeholders, tensors)
    given = arguments(node)
    orders, keep = (None if given[name] is None else tensors[given[name].name] for name in ("orders", "keep"))
    assert keep is not None
    block_map = restore(orders, keep, *(given[name] for name in ("grid", "text_first", "block", "causal")))
    args = [importer.env[given[x]] for x in "qkv"]
    if given["mask"] is not None:
        args.append(added(importer.block_builder, importer.env[given["mask"]]))
    attributes = {"map": block_map, "scale": given["scale"], "precision": given["precision"]}
    placeholder = Placeholder("block_attention", given["name"], attributes)
    return importer.block_builder.emit(placeholders.call(placeholder, args, [*shape_of(args[0])[:-1], shape_of(args[2])[-1]]))


def _weight_and_bias(node: fx.Node, tensors: Tensors, rows: int, cols: int) -> tuple[Form, np.ndarray | None]:
    _, weight, bias, key = args_of(node)[:4]
    form = ops.layer(operator_of(node)).storage(key).hold(rows, cols, [tensors[part.name] for part in weight])
    return form, None if bias is None else tensors[bias.name].numpy()


_WAYS: Mapping[str, Place] = {"Linear": _linear, "Conv2d": _conv2d, "Attention": _block_attention}  # by the kind of site


def vocabulary() -> dict[str, Place]:
    """By the names of torch operators. One is loaded when it is met, so that what another package brings breaks no model without it."""
    return {f"{name}.default": partial(_place, name) for name in registry.members("ops")}


def _place(name: str, node: fx.Node, importer: Any, placeholders: Placeholders, tensors: Tensors) -> Any:
    return by_site(name, _WAYS)(node, importer, placeholders, tensors)
