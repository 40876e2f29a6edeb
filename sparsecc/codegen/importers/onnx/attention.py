"""ONNX's Attention operator (opset 23) as one placeholder, as torch's scaled_dot_product_attention is one."""

from __future__ import annotations

import math
from typing import Any

from sparsecc.codegen.importers.base import Placeholder, Placeholders, added, shape_of
from sparsecc.codegen.tvm_api import relax
from sparsecc.errors import ModelError


def attention_converter(placeholders: Placeholders) -> Any:
    """For TVM's table of converters."""

    class Converter:
        @classmethod
        def get_converter(cls, opset: int) -> Any:
            return lambda builder, inputs, attributes, params: _attention(builder, list(inputs), attributes, placeholders)

    return Converter


def _attention(builder: Any, inputs: list[Any], attributes: dict[str, Any], placeholders: Placeholders) -> Any:
    """q, k, v: [batch, heads, tokens, head_dim] or [batch, tokens, heads·head_dim]; mask: bool, true where a key is seen, or added."""
    q, k, v, mask, *others = (*inputs, None)
    if attributes.get("softcap") or any(other is not None for other in others):
        raise ModelError("Attention with softcap or past keys is not supported")
    flat = len(shape_of(q)) == 3
    if flat:
        heads = [attributes["q_num_heads"], attributes["kv_num_heads"], attributes["kv_num_heads"]]
        q, k, v = (_split(builder, x, count) for x, count in zip((q, k, v), heads, strict=True))
    scale = attributes.get("scale", 1 / math.sqrt(shape_of(q)[-1]))
    args = [q, k, v]
    if mask is not None:
        args.append(added(builder, mask))
    placeholder = Placeholder("attention", "Attention", {"scale": scale, "causal": bool(attributes.get("is_causal"))})
    y = builder.emit(placeholders.call(placeholder, args, [*shape_of(q)[:-1], shape_of(v)[-1]]))
    return _join(builder, y) if flat else y


def _split(builder: Any, x: Any, heads: int) -> Any:
    batch, tokens, features = shape_of(x)
    x = builder.emit(relax.op.reshape(x, [batch, tokens, heads, features // heads]))
    return builder.emit(relax.op.permute_dims(x, [0, 2, 1, 3]))


def _join(builder: Any, x: Any) -> Any:
    batch, heads, tokens, dim = shape_of(x)
    x = builder.emit(relax.op.permute_dims(x, [0, 2, 1, 3]))
    return builder.emit(relax.op.reshape(x, [batch, tokens, heads * dim]))
