"""softmax(scale · q kᵀ + mask) v, and the same over some blocks only, which are a mask as well. In float32, whatever a
map asks to be rounded."""

from __future__ import annotations

import numpy as np

from sparsecc.attention.base import BlockMap
from sparsecc.attention.dynamic import DynamicMap
from sparsecc.codegen.plain.tensors import Tensors
from sparsecc.codegen.recognize.program import AttentionCall, BlockAttentionCall, Expr, shape
from sparsecc.codegen.tvm_api import relax

_LEAST = 1e-38  # of a sum, so that a query that sees nothing gets zeros


def attention(tensors: Tensors, call: AttentionCall) -> Expr:
    q, k, v = (tensors.natural(x) for x in (call.q, call.k, call.v))
    if not call.keys_transposed:
        k = tensors.op(relax.op.permute_dims(k, [0, 1, 3, 2]))
    masks = [] if call.mask is None else [tensors.natural(call.mask)]
    if call.causal:
        queries, keys = shape(q)[2], shape(k)[3]
        masks.append(tensors.weight(_mask(np.tri(queries, keys, dtype=bool))))
    return _attend(tensors, q, k, v, call.scale, masks)


def block_attention(tensors: Tensors, call: BlockAttentionCall) -> Expr:
    q, k, v = (tensors.natural(x) for x in (call.q, call.k, call.v))
    tokens = call.map.grid.tokens
    if not isinstance(call.map, BlockMap):
        k = tensors.op(relax.op.permute_dims(k, [0, 1, 3, 2]))
        return _attend(tensors, q, k, v, call.scale, _chosen(tensors, call, call.map))
    seen = np.zeros((1, call.map.heads, tokens, tokens), bool)
    for head, queries, keys in call.map.rows():
        seen[0, head, queries.numpy()[:, None], keys.numpy()] = True
    seen = np.tril(seen) if call.map.causal else seen
    masks = [] if call.mask is None else [tensors.natural(call.mask)]
    k = tensors.op(relax.op.permute_dims(k, [0, 1, 3, 2]))
    return _attend(tensors, q, k, v, call.scale, [tensors.weight(_mask(seen)), *masks])


def _chosen(tensors: Tensors, call: BlockAttentionCall, found: DynamicMap) -> list[Expr]:
    """Masks that leave what was chosen in this call."""
    if call.lists is not None:
        return _listed(tensors, found, tensors.natural(call.lists), shape(call.q)[0])
    assert call.mask is not None
    return [tensors.natural(call.mask)]


def _listed(tensors: Tensors, found: DynamicMap, lists: Expr, batch: int) -> list[Expr]:
    """Masks [batch, heads, tokens, tokens] that leave the listed blocks."""
    op, tokens, counts = relax.op, found.grid.tokens, found.counts
    assert counts is not None
    heads, blocks = counts.shape
    row = np.repeat(np.arange(batch * heads * blocks), np.tile(counts.numpy().ravel(), batch)) * blocks
    at = tensors.op(op.add(tensors.weight(row.astype(np.int32)), lists))
    hidden = tensors.weight(np.full(batch * heads * blocks * blocks, -np.inf, np.float32))
    mask = tensors.op(op.scatter_elements(hidden, at, tensors.weight(np.zeros(len(row), np.float32)), axis=0))
    mask = tensors.op(op.reshape(mask, [batch, heads, blocks, blocks]))
    for axis in (2, 3):
        mask = tensors.op(op.repeat(mask, found.block, axis))
    mask = tensors.op(op.strided_slice(mask, [2, 3], [0, 0], [tokens, tokens]))
    return [mask, *([tensors.weight(_mask(np.tri(tokens, dtype=bool)))] if found.causal else [])]


def _attend(tensors: Tensors, q: Expr, k: Expr, v: Expr, scale: float, masks: list[Expr]) -> Expr:
    """k: [batch, heads, dim, tokens].  masks: added to the scores."""
    op = relax.op
    shared = shape(q)[1] // shape(v)[1]  # heads that have their keys and values in common
    if shared > 1:
        k, v = (tensors.op(op.repeat(x, shared, 1)) for x in (k, v))
    scores = tensors.op(op.multiply(tensors.op(op.matmul(q, k)), relax.const(float(scale), "float32")))
    for mask in masks:
        scores = tensors.op(op.add(scores, mask))
    top = tensors.op(op.maximum(tensors.op(op.max(scores, -1, keepdims=True)), relax.const(-3e38, "float32")))
    shares = tensors.op(op.exp(tensors.op(op.subtract(scores, top))))
    total = tensors.op(op.maximum(tensors.op(op.sum(shares, -1, keepdims=True)), relax.const(_LEAST, "float32")))
    return tensors.op(op.divide(tensors.op(op.matmul(shares, v)), total))


def _mask(seen: np.ndarray) -> np.ndarray:
    return np.where(seen, np.float32(0), np.float32(-np.inf)).astype(np.float32)
