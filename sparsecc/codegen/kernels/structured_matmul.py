"""y = Fₙ … F₁ x for block-diagonal factors with permutations between them: low rank, Monarch and their kin.

Tokens lie in the vector lanes, so that a permutation of features is where a row is stored, and costs nothing. `build` computes one
factor; `build_fused` two of them, tile by tile of tokens, with what is between them in a strip that stays in the core's cache.
"""

from dataclasses import dataclass

import numpy as np

from sparsecc.codegen.kernels.base import Epilogue, Knobs, ceil_div, groups_for
from sparsecc.codegen.kernels.micro import fill, multiply_add
from sparsecc.codegen.target import Target
from sparsecc.codegen.tvm_api import T


@dataclass(frozen=True)
class FactorSpec:
    """A block-diagonal matrix: `blocks` blocks of rows × cols. X: [tiles, blocks·cols, tile].  Y: [tiles, blocks·rows, tile]."""

    blocks: int
    rows: int
    cols: int

    @property
    def inputs(self) -> int:
        return self.blocks * self.cols

    @property
    def outputs(self) -> int:
        return self.blocks * self.rows


@dataclass(frozen=True)
class StructuredSpec:
    """factors: in the order in which they are applied.  epilogue: of the last."""

    factors: tuple[FactorSpec, ...]
    tiles: int
    tile: int
    epilogue: Epilogue = Epilogue()

    @property
    def flops(self) -> int:
        return 2 * self.tiles * self.tile * sum(f.blocks * f.rows * f.cols for f in self.factors)

    @property
    def strip_bytes(self) -> int:
        """What lies between two factors, of one tile of tokens."""
        return 4 * self.tile * max(f.outputs for f in self.factors[:-1])


def space(factor: FactorSpec, tiles: int, tile: int, target: Target) -> list[Knobs]:
    """Register tiles for one factor, best guess first: rows that divide the block's, then those that fill the registers."""
    most = max(min((target.registers - 2) * target.lanes // tile - 1, 14, factor.rows), 1)
    even = [r for r in range(most, 0, -1) if factor.rows % r == 0]
    candidates = dict.fromkeys([*even[:2], most] if even[0] * 2 > most else [most, *even[:1]])
    parts = factor.blocks
    return [Knobs(tile, r, factor.cols, groups_for(tiles, target.threads, parts * ceil_div(factor.rows, r))) for r in candidates]


def prepare(weight: np.ndarray, places: np.ndarray, bias: np.ndarray | None, knobs: Knobs) -> list[np.ndarray]:
    """weight: [blocks, rows, cols].  places: int[blocks·rows], where each output goes.  bias: [blocks·rows], in the order of the places.

    Returns W [blocks, row blocks, cols, rows per block], and in the order in which rows are computed their places and their bias
    [blocks · row blocks · rows per block], padded with 0.
    """
    blocks, rows, cols = weight.shape
    row_blocks = ceil_div(rows, knobs.rows)
    padded = np.zeros((blocks, row_blocks * knobs.rows, cols), np.float32)
    padded[:, :rows] = weight
    shaped = padded.reshape(blocks, row_blocks, knobs.rows, cols).transpose(0, 1, 3, 2)
    offset = np.zeros(blocks * rows, np.float32) if bias is None else bias[places].astype(np.float32)
    return [
        np.ascontiguousarray(shaped),
        _padded(places.astype(np.int32), blocks, row_blocks * knobs.rows),
        _padded(offset, blocks, row_blocks * knobs.rows),
    ]


def _padded(values: np.ndarray, blocks: int, rows: int) -> np.ndarray:
    padded = np.zeros((blocks, rows), values.dtype)
    padded[:, : len(values) // blocks] = values.reshape(blocks, -1)
    return padded.reshape(-1)


def build(factor: FactorSpec, tiles: int, tile: int, epilogue: Epilogue, knobs: Knobs, target: Target):
    """PrimFunc(X, W, places, bias, residual, Y); `residual` has Y's shape, or is the bias again when the epilogue has none."""
    lanes, mr, rows, cols, blocks, groups = target.lanes, knobs.rows, factor.rows, factor.cols, factor.blocks, knobs.groups
    row_blocks = ceil_div(rows, mr)
    per_group = ceil_div(blocks * row_blocks, groups)
    computed = blocks * row_blocks * mr
    residual_shape = (tiles, factor.outputs, tile) if epilogue.residual else (computed,)
    ragged = row_blocks * mr != rows

    @T.prim_func
    def structured_matmul(
        X: T.Buffer((tiles, factor.inputs, tile), "float32"),
        W: T.Buffer((blocks, row_blocks, cols, mr), "float32"),
        P: T.Buffer((computed,), "int32"),
        B: T.Buffer((computed,), "float32"),
        R: T.Buffer(residual_shape, "float32"),
        Y: T.Buffer((tiles, factor.outputs, tile), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for job in T.parallel(tiles * groups):
            acc = T.alloc_local((mr * tile,), "float32")
            t: T.let = job // groups
            for ii in range(T.min(per_group, blocks * row_blocks - job % groups * per_group)):
                i: T.let = job % groups * per_group + ii
                b: T.let = i // row_blocks
                fill(acc, mr, tile, lanes, lambda r, l: B[i * mr + r])
                multiply_add(acc, cols, mr, tile, lanes, lambda c, r: W[b, i % row_blocks, c, r], lambda c, l: X[t, b * cols + c, l])
                for r in T.unroll(mr):
                    if (not ragged) or i % row_blocks * mr + r < rows:
                        for v in T.unroll(tile // lanes):
                            for l in T.vectorized(lanes):
                                Y[t, P[i * mr + r], v * lanes + l] = epilogue.apply(
                                    acc[r * tile + v * lanes + l], lambda: R[t, P[i * mr + r], v * lanes + l]
                                )

    return structured_matmul


def fits(spec: StructuredSpec, target: Target) -> bool:
    """Whether two factors can be one kernel: every thread has a tile, and the strip leaves half of the second-level cache."""
    return len(spec.factors) == 2 and spec.tiles >= target.threads and spec.strip_bytes <= target.l2_bytes // 2


def build_fused(spec: StructuredSpec, first: Knobs, second: Knobs, target: Target):
    """PrimFunc(X, W1, places1, bias1, W2, places2, bias2, residual, Y); `residual` as in `build`."""
    lanes, tile, tiles, epilogue = target.lanes, spec.tile, spec.tiles, spec.epilogue
    inner, outer = spec.factors
    mr, nr = first.rows, second.rows
    row_blocks, outer_blocks = ceil_div(inner.rows, mr), ceil_div(outer.rows, nr)
    computed, outer_computed = inner.blocks * row_blocks * mr, outer.blocks * outer_blocks * nr
    ragged, outer_ragged = row_blocks * mr != inner.rows, outer_blocks * nr != outer.rows
    residual_shape = (tiles, outer.outputs, tile) if epilogue.residual else (outer_computed,)
    most = max(mr, nr)

    @T.prim_func
    def structured_matmul_fused(
        X: T.Buffer((tiles, inner.inputs, tile), "float32"),
        W1: T.Buffer((inner.blocks, row_blocks, inner.cols, mr), "float32"),
        P1: T.Buffer((computed,), "int32"),
        B1: T.Buffer((computed,), "float32"),
        W2: T.Buffer((outer.blocks, outer_blocks, outer.cols, nr), "float32"),
        P2: T.Buffer((outer_computed,), "int32"),
        B2: T.Buffer((outer_computed,), "float32"),
        R: T.Buffer(residual_shape, "float32"),
        Y: T.Buffer((tiles, outer.outputs, tile), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for t in T.parallel(tiles):
            acc = T.alloc_local((most * tile,), "float32")
            Z = T.alloc_buffer((inner.outputs, tile), "float32")
            for i in range(inner.blocks * row_blocks):
                fill(acc, mr, tile, lanes, lambda r, l: B1[i * mr + r])
                multiply_add(
                    acc,
                    inner.cols,
                    mr,
                    tile,
                    lanes,
                    lambda c, r: W1[i // row_blocks, i % row_blocks, c, r],
                    lambda c, l: X[t, i // row_blocks * inner.cols + c, l],
                )
                for r in T.unroll(mr):
                    if (not ragged) or i % row_blocks * mr + r < inner.rows:
                        for v in T.unroll(tile // lanes):
                            for l in T.vectorized(lanes):
                                Z[P1[i * mr + r], v * lanes + l] = acc[r * tile + v * lanes + l]
            for i in range(outer.blocks * outer_blocks):
                fill(acc, nr, tile, lanes, lambda r, l: B2[i * nr + r])
                multiply_add(
                    acc,
                    outer.cols,
                    nr,
                    tile,
                    lanes,
                    lambda c, r: W2[i // outer_blocks, i % outer_blocks, c, r],
                    lambda c, l: Z[i // outer_blocks * outer.cols + c, l],
                )
                for r in T.unroll(nr):
                    if (not outer_ragged) or i % outer_blocks * nr + r < outer.rows:
                        for v in T.unroll(tile // lanes):
                            for l in T.vectorized(lanes):
                                Y[t, P2[i * nr + r], v * lanes + l] = epilogue.apply(
                                    acc[r * tile + v * lanes + l], lambda: R[t, P2[i * nr + r], v * lanes + l]
                                )

    return structured_matmul_fused
