"""A few tokens as a model has them, [tokens, .., 1], into the lanes of one tile, [1, .., tile], and back: for kernels that want those."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.spec import ceil_div
from sparsecc.codegen.tvm_api import T

_SERIAL_WORK = 1 << 13  # values below which waking the other threads costs more than it gives


@dataclass(frozen=True)
class TurnSpec:
    """inner: the extents between tokens and lanes, (features,) or none.  back: out of the tile.  dtype: any of 32 bits."""

    tokens: int
    inner: tuple[int, ...]
    tile: int
    dtype: str = "float32"
    back: bool = False

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of what is read and of what is written."""
        apart, together = (self.tokens, *self.inner, 1), (1, *self.inner, self.tile)
        return (together, apart) if self.back else (apart, together)


def build(spec: TurnSpec, target: Target):
    """PrimFunc(x, y). Lanes of no token become zeros."""
    tokens, tile, dtype, back, lanes = spec.tokens, spec.tile, spec.dtype, spec.back, target.lanes
    x_shape, y_shape = spec.shapes
    x_size, y_size, features = math.prod(x_shape), math.prod(y_shape), math.prod(spec.inner)
    parts = target.threads if features * tile >= _SERIAL_WORK else 1
    per_part = ceil_div(features, parts)

    @T.prim_func
    def turn_tokens(x: T.Buffer(x_shape, dtype), y: T.Buffer(y_shape, dtype)):
        T.func_attr({"tirx.noalias": True})
        X = T.decl_buffer((x_size,), dtype, data=x.data)
        Y = T.decl_buffer((y_size,), dtype, data=y.data)
        for part in T.parallel(parts):
            for ff in range(T.min(per_part, features - part * per_part)):
                f: T.let = part * per_part + ff
                if back:
                    for t in T.unroll(tokens):
                        Y[t * features + f] = X[f * tile + t]
                else:
                    for v in T.unroll(tile // lanes):
                        Y[T.ramp(f * tile + v * lanes, 1, lanes)] = T.Broadcast(T.Cast(dtype, 0), lanes)
                    for t in T.unroll(tokens):
                        Y[f * tile + t] = X[t * features + f]

    return turn_tokens
