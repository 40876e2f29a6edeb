"""Positions as rotations of pairs of features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsecc.graph.onnx.contrib.parts import CannotError, Parts


def rotary_embedding(parts: Parts) -> Sequence[str]:
    """x [batch, tokens, heads·dim] or [batch, heads, tokens, dim]; positions [batch, tokens], or [1]: where all sequences begin."""
    x, positions, cos, sin = parts.inputs(4)
    if parts.get("scale", 1.0) != 1 or parts.get("is_packed_batching", 0):
        raise CannotError("it scales positions, or packs sequences")
    flat = len(parts.shape(x)) == 3
    rank = parts.get("rotary_embedding_dim", 0) or 2 * parts.size(cos, 1)
    heads = parts.get("num_heads", 0) or (parts.size(x, 2) // rank if flat else parts.size(x, 1))
    dim = parts.size(x, 2) // heads if flat else parts.size(x, 3)
    tokens = parts.size(x, 1 if flat else 2)
    if len(parts.shape(positions)) == 1:
        positions = parts.op("Add", parts.op("Reshape", positions, parts.ints(1, 1)), parts.const(np.arange(tokens, dtype=np.int64)[None]))
    if flat:
        x = split_heads(parts, x, heads)
    y = rotated(parts, x, positions, cos, sin, interleaved=bool(parts.get("interleaved", 0)), rank=rank, dim=dim)
    return [merged(parts, y) if flat else y]


def split_heads(parts: Parts, x: str, heads: int) -> str:
    """[batch, tokens, heads·dim] as [batch, heads, tokens, dim]."""
    return parts.op("Transpose", parts.op("Reshape", x, parts.ints(0, 0, heads, -1)), perm=[0, 2, 1, 3])


def merged(parts: Parts, x: str) -> str:
    return parts.op("Reshape", parts.op("Transpose", x, perm=[0, 2, 1, 3]), parts.ints(0, 0, -1))


def rotated(parts: Parts, x: str, positions: str, cos: str, sin: str, *, interleaved: bool, rank: int, dim: int) -> str:
    """x: [batch, heads, tokens, dim], of which the first `rank` features turn, in pairs (i, i + rank/2), or neighbours if interleaved."""
    half = rank // 2
    cosine, sine = (parts.op("Unsqueeze", parts.op("Gather", table, positions, axis=0), parts.ints(1)) for table in (cos, sin))
    turning = x if rank == dim else parts.slice(x, 3, 0, rank)
    if interleaved:
        pairs = parts.op("Reshape", turning, parts.ints(0, 0, 0, half, 2))
        a, b = (parts.op("Gather", pairs, parts.const(place, np.int64), axis=4) for place in (0, 1))
    else:
        a, b = parts.slice(turning, 3, 0, half), parts.slice(turning, 3, half, rank)
    left = parts.op("Sub", parts.op("Mul", a, cosine), parts.op("Mul", b, sine))
    right = parts.op("Add", parts.op("Mul", a, sine), parts.op("Mul", b, cosine))
    if interleaved:
        both = [parts.op("Unsqueeze", value, parts.ints(4)) for value in (left, right)]
        turned = parts.op("Reshape", parts.op("Concat", *both, axis=4), parts.ints(0, 0, 0, rank))
    else:
        turned = parts.op("Concat", left, right, axis=3)
    return turned if rank == dim else parts.op("Concat", turned, parts.slice(x, 3, rank, dim), axis=3)
