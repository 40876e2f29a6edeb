"""Attention with everything that onnxruntime puts into one operator: projections, masks, past keys, rotary positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from sparsecc.graph.onnx.contrib.parts import CannotError, Parts
from sparsecc.graph.onnx.contrib.rotary import merged, rotated, split_heads


def attention(parts: Parts) -> Sequence[str | None]:
    """input [batch, tokens, features] · weights [features, q + k + v] + bias, then heads of it."""
    x, weights, bias, mask, past, added, _ = parts.inputs(7)
    heads = parts.attributes["num_heads"]
    projected = parts.sum(parts.op("MatMul", x, weights, named=True), bias)
    return attend_to_projected(parts, projected, parts.size(weights, 1), heads, mask, past, added)


def attend_to_projected(
    parts: Parts, projected: str, width: int, heads: int, mask: str | None, past: str | None, added: str | None
) -> Sequence[str | None]:
    """projected: [batch, tokens, width], queries, keys and values beside each other.  past: [2, batch, heads, tokens, head_dim]."""
    if parts.get("do_rotary", 0):
        raise CannotError("it turns positions into rotations (do_rotary)")
    sizes = list(parts.get("qkv_hidden_sizes", [])) or [width // 3] * 3
    q, k, v = parts.several("Split", [projected, parts.ints(*sizes)], 3, axis=-1)
    q, k, v = (split_heads(parts, value, heads) for value in (q, k, v))
    present = None
    if past is not None:
        k = parts.op("Concat", parts.op("Gather", past, parts.const(0, np.int64), axis=0), k, axis=2)
        v = parts.op("Concat", parts.op("Gather", past, parts.const(1, np.int64), axis=0), v, axis=2)
    if parts.wants(1):
        present = parts.op("Concat", parts.op("Unsqueeze", k, parts.ints(0)), parts.op("Unsqueeze", v, parts.ints(0)), axis=0)
    seen = _together(parts, padding(parts, mask, k), causal(parts, q, k) if parts.get("unidirectional", 0) else None, added)
    return [merged(parts, attend(parts, q, k, v, seen, sizes[0] // heads)), present]


def multi_head_attention(parts: Parts) -> Sequence[str | None]:
    """Of queries, keys and values that are projected already, or packed into one value."""
    query, key, value, bias, mask, added, past_key, past_value = parts.inputs(8)
    if parts.input(8) or parts.input(9):
        raise CannotError("it keeps its past in a buffer (past_sequence_length, cache_indirection)")
    heads = parts.attributes["num_heads"]
    if key is None:
        query, key, value = _unpacked(parts, query, 3)
    elif value is None:
        key, value = _unpacked(parts, key, 2)
    q, k, v = (_as_heads(parts, x, heads) for x in _with_bias(parts, [query, key, value], bias))
    if past_key is not None:
        k, v = parts.op("Concat", past_key, k, axis=2), parts.op("Concat", past_value, v, axis=2)
    seen = _together(parts, padding(parts, mask, k), causal(parts, q, k) if parts.get("unidirectional", 0) else None, added)
    dim = None if parts.get("scale", 0.0) else _head_dim(parts, query, heads)
    return [merged(parts, attend(parts, q, k, v, seen, dim)), k, v]


def group_query_attention(parts: Parts) -> Sequence[str | None]:
    """Causal, several heads of queries to one of keys; keys and values are appended to those of the past."""
    query, key, value, past_key, past_value, lengths, _, cos, sin, positions, added, sink = parts.inputs(12)
    _check_group_query(parts, sink)
    heads, groups = parts.attributes["num_heads"], parts.attributes["kv_num_heads"]
    if key is None:
        dim = parts.size(query, 2) // (heads + 2 * groups)
        query, key, value = parts.several("Split", [query, parts.ints(heads * dim, groups * dim, groups * dim)], 3, axis=-1)
    else:
        dim = parts.size(query, 2) // heads
    tokens = parts.size(query if parts.input(1) else parts.node.input[0], 1)
    q, k, v = split_heads(parts, query, heads), split_heads(parts, key, groups), split_heads(parts, value, groups)
    before = parts.size(past_key, 2) if past_key else 0
    past = _past_lengths(parts, lengths, tokens) if before else None
    if parts.get("do_rotary", 0):
        places = positions or _positions(parts, past, tokens)
        half = bool(parts.get("rotary_interleaved", 0))
        q, k = (rotated(parts, x, places, cos, sin, interleaved=half, rank=parts.size(cos, 1) * 2, dim=dim) for x in (q, k))
    if past is not None:
        k = _appended(parts, past_key, k, past, before, tokens)
        v = _appended(parts, past_value, v, past, before, tokens)
    seen = _visible(parts, past, tokens, before + tokens, parts.get("local_window_size", -1))
    keys, values = (x if heads == groups else _repeated(parts, x, heads, groups) for x in (k, v))
    return [merged(parts, attend(parts, q, keys, values, parts.sum(seen, added), dim)), k, v]


def _check_group_query(parts: Parts, sink: str | None) -> None:
    if sink or parts.get("smooth_softmax", 0) > 0 or parts.get("softcap", 0.0):
        raise CannotError("it has a sink or a soft cap")
    if parts.get("k_quant_type", "NONE") != "NONE" or parts.get("v_quant_type", "NONE") != "NONE":
        raise CannotError("its past is quantized")


def _together(parts: Parts, *terms: str | None) -> str | None:
    """What is added to the scores, None where nothing is."""
    return parts.sum(*terms) if any(terms) else None


def attend(parts: Parts, q: str, k: str, v: str, seen: str | None, dim: int | None) -> str:
    """softmax(scale · q · kᵀ + seen) · v"""
    scale = parts.get("scale", 0.0) or 1 / math.sqrt(dim or 1)
    scores = parts.op("Mul", parts.op("MatMul", q, parts.op("Transpose", k, perm=[0, 1, 3, 2])), parts.number(scale))
    return parts.op("MatMul", parts.op("Softmax", parts.sum(scores, seen), axis=-1), v)


def padding(parts: Parts, mask: str | None, keys: str) -> str | None:
    """What is added to the scores [batch, heads, tokens, keys]. mask: 1 where a key is seen, per key or per token and key; or [batch],
    how many keys are seen."""
    if mask is None:
        return None
    shape = parts.shape(mask)
    if len(shape) == 1:
        _check_lengths(parts, shape)
        order = _order(parts, keys)
        shown = parts.op("Less", order, parts.op("Unsqueeze", parts.op("Cast", mask, to=TensorProto.INT64), parts.ints(1)))
        mask = parts.op("Cast", shown, to=TensorProto.INT32)
    elif len(shape) == 4:
        raise CannotError("its mask has four axes")
    axes = parts.ints(1, 2) if len(shape) < 3 else parts.ints(1)
    hidden = parts.op("Equal", parts.op("Unsqueeze", mask, axes), parts.const(0, "int32"))
    return parts.op("Where", hidden, parts.number(parts.get("mask_filter_value", -10000.0)), parts.number(0))


def causal(parts: Parts, q: str, k: str) -> str:
    """The lowest number for keys behind a token; the last tokens of both stand beside each other."""
    rows, cols = (parts.op("Shape", x, start=2, end=3) for x in (q, k))
    ones = parts.op("ConstantOfShape", parts.op("Concat", rows, cols, axis=0), value=_one())
    lower = parts.op("Trilu", ones, _scalar(parts, parts.op("Sub", cols, rows)), upper=0)
    return parts.op("Where", parts.op("Cast", lower, to=TensorProto.BOOL), parts.number(0), parts.number(parts.lowest))


def _one() -> TensorProto:
    return TensorProto(data_type=TensorProto.FLOAT, dims=[1], float_data=[1])


def _scalar(parts: Parts, x: str) -> str:
    return parts.op("Squeeze", x, parts.ints(0))


def _order(parts: Parts, keys: str) -> str:
    """0, 1, 2... for each key."""
    count = _scalar(parts, parts.op("Shape", keys, start=2, end=3))
    return parts.op("Range", parts.const(0, np.int64), count, parts.const(1, np.int64))


def _check_lengths(parts: Parts, shape: list[int | None]) -> None:
    """onnxruntime tells [batch] from [2 · batch] and [3 · batch + 2] by their size alone."""
    batch = parts.size(parts.node.input[0], 0)
    if shape[0] != batch:
        raise CannotError("its mask holds where keys start and end")


def _head_dim(parts: Parts, query: str, heads: int) -> int:
    shape = parts.shape(query)
    return parts.size(query, 3) if len(shape) == 4 else parts.size(query, 2) // heads


def _with_bias(parts: Parts, values: Sequence[str], bias: str | None) -> list[str]:
    if bias is None:
        return list(values)
    sizes = [parts.size(value, -1) for value in values]
    pieces = parts.several("Split", [bias, parts.ints(*sizes)], 3, axis=0)
    return [parts.op("Add", value, piece) for value, piece in zip(values, pieces, strict=True)]


def _unpacked(parts: Parts, packed: str, count: int) -> list[str]:
    """[batch, tokens, heads, count, dim] as `count` values [batch, tokens, heads·dim]."""
    found = []
    for place in range(count):
        one = parts.op("Gather", packed, parts.const(place, np.int64), axis=3)
        flat = parts.op("Reshape", one, parts.ints(0, 0, -1))
        found.append(flat)
    return found


def _as_heads(parts: Parts, x: str, heads: int) -> str:
    try:
        rank = len(parts.shape(x))
    except CannotError:
        rank = 3  # what was just made here
    return x if rank == 4 else split_heads(parts, x, heads)


def _past_lengths(parts: Parts, lengths: str, tokens: int) -> str:
    """[batch, 1]: how many of the past's keys are filled."""
    filled = parts.op("Add", parts.op("Cast", lengths, to=TensorProto.INT64), parts.const(1 - tokens, np.int64))
    return parts.op("Reshape", filled, parts.ints(-1, 1))


def _positions(parts: Parts, past: str | None, tokens: int) -> str:
    """[batch or 1, tokens]"""
    order = parts.const(np.arange(tokens, dtype=np.int64)[None])
    return order if past is None else parts.op("Add", past, order)


def _appended(parts: Parts, past: str, new: str, filled: str, before: int, tokens: int) -> str:
    """[batch, heads, before + tokens, dim]: the past's first `filled` entries, then the new ones, then zeros."""
    both = parts.op("Concat", past, new, axis=2)
    order = parts.const(np.arange(before + tokens, dtype=np.int64)[None])
    later = parts.op("Min", parts.op("Sub", order, filled), parts.const(tokens - 1, np.int64))
    index = parts.op("Where", parts.op("Less", order, filled), order, parts.op("Add", later, parts.const(before, np.int64)))
    index = parts.op("Expand", parts.op("Unsqueeze", index, parts.ints(1, 3)), parts.op("Shape", both))
    there = parts.op("Less", order, parts.op("Add", filled, parts.const(tokens, np.int64)))
    entries = parts.op("GatherElements", both, index, axis=2)
    return parts.op("Where", parts.op("Unsqueeze", there, parts.ints(1, 3)), entries, parts.number(0))


def _visible(parts: Parts, past: str | None, tokens: int, keys: int, window: int) -> str:
    """What is added to the scores: keys up to a token's own position, and `window` of them at most."""
    place, order = np.arange(tokens, dtype=np.int64)[None, None, :, None], np.arange(keys, dtype=np.int64)[None, None, None, :]
    if past is None:
        hidden = (order > place) | ((order <= place - window) if window > 0 else False)
        return parts.const(np.where(hidden, parts.lowest, 0), parts.numpy_kind)
    at = parts.op("Add", parts.op("Reshape", past, parts.ints(-1, 1, 1, 1)), parts.const(place))
    hidden_at = parts.op("Greater", parts.const(order), at)
    if window > 0:
        old = parts.op("LessOrEqual", parts.const(order), parts.op("Sub", at, parts.const(window, np.int64)))
        hidden_at = parts.op("Or", hidden_at, old)
    return parts.op("Where", hidden_at, parts.number(parts.lowest), parts.number(0))


def _repeated(parts: Parts, x: str, heads: int, groups: int) -> str:
    """Each head of keys for all the heads of queries that read it."""
    index = np.repeat(np.arange(groups, dtype=np.int64), heads // groups)
    return parts.op("Gather", x, parts.const(index), axis=1)
