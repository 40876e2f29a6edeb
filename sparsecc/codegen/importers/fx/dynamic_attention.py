"""Attention whose blocks are chosen in each call, in Relax: the scores of all blocks, and what is kept of them.

Where a rule keeps a fixed number of each row, the numbers of the blocks kept are a list of fixed length, which a kernel reads. Where scores
alone decide, what is left out becomes a mask of attention, which computes everything. Rules but `pooled` hold scores of all tokens at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx

from sparsecc.attention.dynamic import DynamicMap, Margin, Principal
from sparsecc.codegen.importers.base import Placeholder, Placeholders, arguments, shape_of
from sparsecc.codegen.tvm_api import relax
from sparsecc.ops.dynamic_block_attention.torch import map_of

op = relax.op
Emit = Callable[[Any], Any]


def dynamic_block_attention(node: fx.Node, importer: Any, placeholders: Placeholders, tensors: Mapping[str, torch.Tensor]) -> Any:
    given, emit = arguments(node), importer.block_builder.emit
    found = map_of(given, lambda node: tensors[node.name])
    q, k, v = (importer.env[given[name]] for name in "qkv")
    out = [*shape_of(q)[:-1], shape_of(v)[-1]]
    scores = _within(emit, found, _scores(emit, found, q, _each_head(emit, k, shape_of(q)[1]), given["scale"]))
    placeholder = Placeholder("block_attention", given["name"], {"scale": given["scale"], "map": found, "precision": "float32"})
    kept = _mask(emit, found, scores) if found.counts is None else _listed(emit, found, scores)
    return emit(placeholders.call(placeholder, [q, k, v, kept], out))


def positions(found: DynamicMap) -> np.ndarray:
    """int64[kept]: where in [heads, query_blocks, key_blocks], each row sorted by its scores, what is kept of a batch item stands."""
    counts = found.counts
    assert counts is not None
    blocks = counts.shape[1]
    first = (torch.arange(blocks) < counts.flatten()[:, None]).nonzero()
    return (first[:, 0] * blocks + first[:, 1]).numpy()


def _listed(emit: Emit, found: DynamicMap, scores: Any) -> Any:
    """int32[batch · kept]: the key blocks of each row, one row after the other."""
    batch = shape_of(scores)[0]
    order = emit(op.argsort(scores, -1, True, "int32"))
    every = emit(op.reshape(order, [batch, -1]))
    kept = positions(found)
    return emit(op.reshape(emit(op.take(every, relax.const(kept, "int64"), axis=1)), [batch * len(kept)]))


def _mask(emit: Emit, found: DynamicMap, scores: Any) -> Any:
    """float32[batch, heads, tokens, tokens], added to the scores of tokens."""
    assert isinstance(found.rule, Margin)
    tokens = found.grid.tokens
    least = relax.const(found.rule.threshold.numpy().reshape(-1, 1, 1), "float32")
    kept = emit(op.greater_equal(scores, least))
    kept = emit(op.logical_and(kept, relax.const(found.full.numpy(), "bool")))  # a threshold may be −∞
    mask = emit(op.where(kept, relax.const(0.0, "float32"), relax.const(-math.inf, "float32")))
    for axis in (2, 3):
        mask = emit(op.repeat(mask, found.block, axis))
    mask = emit(op.strided_slice(mask, [2, 3], [0, 0], [tokens, tokens]))
    return _causal(emit, found, mask)


def _within(emit: Emit, found: DynamicMap, scores: Any) -> Any:
    """∞ where a block is kept in any case, −∞ where none is computed."""
    for where, number in ((found.required, math.inf), (~found.full.expand_as(found.required), -math.inf)):
        scores = emit(op.where(relax.const(where.numpy(), "bool"), relax.const(number, "float32"), scores))
    return scores


def _scores(emit: Emit, found: DynamicMap, q: Any, k: Any, scale: float) -> Any:
    """As `Rule.scores`, of keys for each head of queries."""
    rule, blocks, block = found.rule, found.grid.blocks(found.block), found.block
    if rule.learnt is None:
        return _product(emit, _means(emit, q, block), _means(emit, k, block), scale)
    if isinstance(rule, Principal):
        basis = rule.basis.repeat_interleave(found.heads // len(rule.basis), 0)[None].contiguous()
        q, k = (emit(op.matmul(x, relax.const(basis.numpy(), "float32"))) for x in (q, k))
    scores = _causal(emit, found, _product(emit, q, k, scale))
    batch, heads = shape_of(scores)[:2]
    shape = [batch, heads, blocks, block, blocks, block]
    if isinstance(rule, Principal):
        p = _padded(emit, emit(op.nn.softmax(scores, -1)), block, 0.0)
        return emit(op.sum(emit(op.reshape(p, shape)), [3, 5]))
    below = emit(op.subtract(scores, emit(op.max(scores, -1, True))))
    return emit(op.max(emit(op.reshape(_padded(emit, below, block, -math.inf), shape)), [3, 5]))


def _means(emit: Emit, x: Any, block: int) -> Any:
    batch, heads, tokens, depth = shape_of(x)
    blocks = -(-tokens // block)
    if tokens % block:
        x = emit(op.nn.pad(x, [0, 0, 0, 0, 0, -tokens % block, 0, 0]))
    sums = emit(op.sum(emit(op.reshape(x, [batch, heads, blocks, block, depth])), [3]))
    sizes = np.minimum(block, tokens - block * np.arange(blocks, dtype=np.float32))
    return emit(op.multiply(sums, relax.const((1 / sizes)[:, None].astype(np.float32), "float32")))


def _product(emit: Emit, q: Any, k: Any, scale: float) -> Any:
    return emit(op.multiply(emit(op.matmul(q, emit(op.permute_dims(k, [0, 1, 3, 2])))), relax.const(scale, "float32")))


def _causal(emit: Emit, found: DynamicMap, scores: Any) -> Any:
    if not found.causal:
        return scores
    earlier = np.tri(found.grid.tokens, dtype=bool)
    return emit(op.where(relax.const(earlier, "bool"), scores, relax.const(-math.inf, "float32")))


def _padded(emit: Emit, x: Any, block: int, filling: float) -> Any:
    """The last two axes as whole blocks."""
    rest = -shape_of(x)[3] % block
    return emit(op.nn.pad(x, [0, 0, 0, 0, 0, rest, 0, rest], pad_value=filling)) if rest else x


def _each_head(emit: Emit, x: Any, heads: int) -> Any:
    """[batch, kv_heads, ..] with each head as often as there are heads of q that it serves."""
    shared = heads // shape_of(x)[1]
    return emit(op.repeat(x, shared, 1)) if shared > 1 else x
