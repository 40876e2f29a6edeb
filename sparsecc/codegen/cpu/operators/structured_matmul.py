"""y = Fₙ … F₁ x for block-diagonal factors with permutations between them: low rank, Monarch and their kin.

Tokens lie in the vector lanes, so that a permutation of features is where a row is stored, and costs nothing. One kernel computes one
factor, or two of them, tile by tile of tokens, with what is between them in a strip that stays in the core's cache.
"""

from dataclasses import dataclass

import numpy as np

from sparsecc.codegen.cpu.pieces.epilogue import apply
from sparsecc.codegen.cpu.pieces.micro import fill, multiply_add
from sparsecc.codegen.cpu.pieces.tiles import Tiles, groups_for
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.spec import Epilogue, ceil_div
from sparsecc.codegen.tvm_api import T


@dataclass(frozen=True)
class Blocks:
    """The shape of a block-diagonal matrix: `count` blocks of rows × cols, of which `tied` after each other are one that is stored once."""

    count: int
    rows: int
    cols: int
    tied: int = 1

    @property
    def stored(self) -> int:
        return self.count // self.tied

    @property
    def inputs(self) -> int:
        return self.count * self.cols

    @property
    def outputs(self) -> int:
        return self.count * self.rows


@dataclass(frozen=True)
class StructuredSpec:
    """One or two factors, in the order in which they are applied.  epilogue: of the last.

    X: [tiles, inputs of the first, tile].  Y: [tiles, outputs of the last, tile].
    """

    factors: tuple[Blocks, ...]
    tiles: int
    tile: int
    epilogue: Epilogue

    @property
    def x_shape(self) -> tuple[int, int, int]:
        return self.tiles, self.factors[0].inputs, self.tile

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return self.tiles, self.factors[-1].outputs, self.tile

    @property
    def flops(self) -> int:
        return 2 * self.tiles * self.tile * sum(f.count * f.rows * f.cols for f in self.factors)

    @property
    def strip_bytes(self) -> int:
        """What lies between the factors, of one tile of tokens."""
        return 4 * self.tile * sum(f.outputs for f in self.factors[:-1])


def fuses(factors: tuple[Blocks, ...], tiles: int, tile: int, target: Target) -> bool:
    """Whether factors can be one kernel: two of them, a tile for every thread, and a strip that leaves half of the second-level cache."""
    return len(factors) == 2 and tiles >= target.threads and 4 * tile * factors[0].outputs <= target.l2_bytes // 2


def space(blocks: Blocks, spec: StructuredSpec, target: Target) -> list[Tiles]:
    """Register tiles for one factor: rows that fill the registers, and fewer that divide a block's; first what computes fewest rows."""
    most = max(min((target.registers - 2) * target.lanes // spec.tile - 1, 14, blocks.rows), 1)
    even = max(r for r in range(1, most + 1) if blocks.rows % r == 0)
    candidates = sorted({most, even}, key=lambda r: (ceil_div(blocks.rows, r) * (r + _OVERHEAD), -r))
    jobs = [groups_for(spec.tiles, target.threads, blocks.count * ceil_div(blocks.rows, r)) for r in candidates]
    return [Tiles(spec.tile, r, blocks.cols, groups) for r, groups in zip(candidates, jobs, strict=True)]


_OVERHEAD = 2  # rows that could be computed in the time in which a register tile's rows of X are loaded


def prepare(weight: np.ndarray, places: np.ndarray, bias: np.ndarray | None, knobs: Tiles) -> list[np.ndarray]:
    """weight: [stored blocks, rows, cols].  places: int[outputs], where each goes.  bias: [outputs], in the order of the places.

    Returns W [stored blocks, row blocks, cols, rows per block], and in the order in which rows are computed their places and their bias
    [blocks · row blocks · rows per block], padded with 0.
    """
    blocks, rows, cols = weight.shape
    count = len(places) // rows
    row_blocks = ceil_div(rows, knobs.rows)
    padded = np.zeros((blocks, row_blocks * knobs.rows, cols), np.float32)
    padded[:, :rows] = weight
    shaped = padded.reshape(blocks, row_blocks, knobs.rows, cols).transpose(0, 1, 3, 2)
    offset = np.zeros(count * rows, np.float32) if bias is None else bias[places].astype(np.float32)
    return [
        np.ascontiguousarray(shaped),
        _padded(places.astype(np.int32), count, row_blocks * knobs.rows),
        _padded(offset, count, row_blocks * knobs.rows),
    ]


def _padded(values: np.ndarray, blocks: int, rows: int) -> np.ndarray:
    padded = np.zeros((blocks, rows), values.dtype)
    padded[:, : len(values) // blocks] = values.reshape(blocks, -1)
    return padded.reshape(-1)


def build(spec: StructuredSpec, knobs: tuple[Tiles, ...], target: Target):
    """PrimFunc(X, W, places, bias, .., residual, Y), with what `prepare` has made of each factor; `residual` has Y's shape, or is the last
    bias again when the epilogue has none."""
    return _single(spec, knobs[0], target) if len(spec.factors) == 1 else _fused(spec, *knobs, target)


def _single(spec: StructuredSpec, knobs: Tiles, target: Target):
    [factor] = spec.factors
    lanes, tile, tiles, epilogue = target.lanes, spec.tile, spec.tiles, spec.epilogue
    mr, rows, cols, blocks, tied, groups = knobs.rows, factor.rows, factor.cols, factor.count, factor.tied, knobs.groups
    row_blocks = ceil_div(rows, mr)
    per_group = ceil_div(blocks * row_blocks, groups)
    computed = blocks * row_blocks * mr
    residual_shape = spec.y_shape if epilogue.residual else (computed,)
    ragged = row_blocks * mr != rows

    @T.prim_func
    def structured_matmul(
        X: T.Buffer(spec.x_shape, "float32"),
        W: T.Buffer((factor.stored, row_blocks, cols, mr), "float32"),
        P: T.Buffer((computed,), "int32"),
        B: T.Buffer((computed,), "float32"),
        R: T.Buffer(residual_shape, "float32"),
        Y: T.Buffer(spec.y_shape, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for job in T.parallel(tiles * groups):
            acc = T.alloc_local((mr * tile,), "float32")
            t: T.let = job // groups
            for ii in range(T.min(per_group, blocks * row_blocks - job % groups * per_group)):
                i: T.let = job % groups * per_group + ii
                b: T.let = i // row_blocks
                fill(acc, mr, tile, lanes, lambda r, l: B[i * mr + r])
                multiply_add(
                    acc, cols, mr, tile, lanes, lambda c, r: W[b // tied, i % row_blocks, c, r], lambda c, l: X[t, b * cols + c, l]
                )
                for r in T.unroll(mr):
                    if (not ragged) or i % row_blocks * mr + r < rows:
                        for v in T.unroll(tile // lanes):
                            for l in T.vectorized(lanes):
                                Y[t, P[i * mr + r], v * lanes + l] = apply(
                                    epilogue, acc[r * tile + v * lanes + l], lambda: R[t, P[i * mr + r], v * lanes + l]
                                )

    return structured_matmul


def _fused(spec: StructuredSpec, first: Tiles, second: Tiles, target: Target):
    lanes, tile, tiles, epilogue = target.lanes, spec.tile, spec.tiles, spec.epilogue
    inner, outer = spec.factors
    mr, nr = first.rows, second.rows
    row_blocks, outer_blocks = ceil_div(inner.rows, mr), ceil_div(outer.rows, nr)
    computed, outer_computed = inner.count * row_blocks * mr, outer.count * outer_blocks * nr
    ragged, outer_ragged = row_blocks * mr != inner.rows, outer_blocks * nr != outer.rows
    residual_shape = spec.y_shape if epilogue.residual else (outer_computed,)
    most = max(mr, nr)

    @T.prim_func
    def structured_matmul_fused(
        X: T.Buffer(spec.x_shape, "float32"),
        W1: T.Buffer((inner.stored, row_blocks, inner.cols, mr), "float32"),
        P1: T.Buffer((computed,), "int32"),
        B1: T.Buffer((computed,), "float32"),
        W2: T.Buffer((outer.stored, outer_blocks, outer.cols, nr), "float32"),
        P2: T.Buffer((outer_computed,), "int32"),
        B2: T.Buffer((outer_computed,), "float32"),
        R: T.Buffer(residual_shape, "float32"),
        Y: T.Buffer(spec.y_shape, "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for t in T.parallel(tiles):
            acc = T.alloc_local((most * tile,), "float32")
            Z = T.alloc_buffer((inner.outputs, tile), "float32")
            for i in range(inner.count * row_blocks):
                fill(acc, mr, tile, lanes, lambda r, l: B1[i * mr + r])
                multiply_add(
                    acc,
                    inner.cols,
                    mr,
                    tile,
                    lanes,
                    lambda c, r: W1[i // row_blocks // inner.tied, i % row_blocks, c, r],
                    lambda c, l: X[t, i // row_blocks * inner.cols + c, l],
                )
                for r in T.unroll(mr):
                    if (not ragged) or i % row_blocks * mr + r < inner.rows:
                        for v in T.unroll(tile // lanes):
                            for l in T.vectorized(lanes):
                                Z[P1[i * mr + r], v * lanes + l] = acc[r * tile + v * lanes + l]
            for i in range(outer.count * outer_blocks):
                fill(acc, nr, tile, lanes, lambda r, l: B2[i * nr + r])
                multiply_add(
                    acc,
                    outer.cols,
                    nr,
                    tile,
                    lanes,
                    lambda c, r: W2[i // outer_blocks // outer.tied, i % outer_blocks, c, r],
                    lambda c, l: Z[i // outer_blocks * outer.cols + c, l],
                )
                for r in T.unroll(nr):
                    if (not outer_ragged) or i % outer_blocks * nr + r < outer.rows:
                        for v in T.unroll(tile // lanes):
                            for l in T.vectorized(lanes):
                                Y[t, P2[i * nr + r], v * lanes + l] = apply(
                                    epilogue, acc[r * tile + v * lanes + l], lambda: R[t, P2[i * nr + r], v * lanes + l]
                                )

    return structured_matmul_fused
