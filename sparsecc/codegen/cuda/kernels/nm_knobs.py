"""How the 2:4 kernel divides its work: which knobs there are, and in which order they are worth a try."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sparsecc.codegen.cuda.pack as packing
from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.pack import TILE, UNIT, narrow_kind, packed_depth, packed_tiles

BARRIERS = 128  # bytes of shared memory before the ring
# Clusters of so many blocks → how many of them an H200 holds at once, a block on each processor (cuOccupancyMaxActiveClusters).
_AT_ONCE = {1: 132, 2: 66, 4: 30, 8: 15}
_CLUSTER_COST = {1: 0, 2: 55_000, 4: 115_000, 8: 140_000}  # in bytes that could have passed meanwhile, by what was measured to be faster
_WAVES = (1, 2, 3, 4, 8, 16)
_MOST_SUMS = 112  # of a lane
_LONG = 170 * 1024  # bytes of rings of long stages; larger ones are better made of more short stages


@dataclass(frozen=True)
class Ring:
    """rows: of a block.  inputs: of a stage.  stages: of the ring, one of them being worked on.  row_warps, input_warps, token_warps: that
    share out rows, inputs of a stage, tokens.  splits: blocks that share out the depth.  late: the next stage is asked for when the first
    fragments of this one are."""

    rows: int
    inputs: int
    stages: int
    row_warps: int = 1
    input_warps: int = 4
    token_warps: int = 1
    splits: int = 1
    late: bool = False

    @property
    def threads(self) -> int:
        return self.row_warps * self.token_warps * self.input_warps * 32

    @property
    def x_pitch(self) -> int:
        """Bytes from token to token: an odd number of 16."""
        return self.inputs * 2 + 16

    @property
    def sums_pitch(self) -> int:
        """Floats from token to token: the lanes of a warp write to different banks."""
        return self.rows + 4

    def registers(self, spec: LinearSpec) -> int:
        """Of a lane, about: sums, two steps' fragments of X, what else there is, and words to be widened."""
        tiles, groups = self.rows // TILE // self.row_warps, spec.tokens // 8 // self.token_warps
        return 4 * tiles * groups + 8 * groups + 40 + (4 * tiles if narrow_kind(spec) else 0)

    def weight_bytes(self, spec: LinearSpec) -> int:
        """Of a stage."""
        return self.rows // TILE * self.inputs // UNIT * packing.unit_bytes(bool(narrow_kind(spec)))

    def sums_bytes(self, spec: LinearSpec) -> int:
        return self.input_warps * spec.tokens * self.sums_pitch * 4

    def shared_bytes(self, spec: LinearSpec) -> int:
        return BARRIERS + max(self.stages * (self.weight_bytes(spec) + spec.tokens * self.x_pitch), self.sums_bytes(spec))


def fits(spec: LinearSpec, knobs: Ring, arch: Arch) -> bool:
    steps, tiles = packed_depth(spec) // knobs.inputs, knobs.rows // TILE
    last = steps - (knobs.splits - 1) * -(-steps // knobs.splits)  # of the last of the blocks that share out the depth
    return (
        packed_depth(spec) % knobs.inputs == 0
        and tiles % knobs.row_warps == 0
        and knobs.inputs % (UNIT * knobs.input_warps) == 0
        and spec.tokens % (8 * knobs.token_warps) == 0
        and knobs.registers(spec) <= min(255, 65536 // knobs.threads)
        and (knobs.splits == 1 or (arch.bulk_copies and last > 0))
        and knobs.shared_bytes(spec) <= arch.shared_bytes
        and knobs.stages <= max(2, last)
    )


def space(spec: LinearSpec, arch: Arch) -> list[Ring]:
    """Nothing where rows of X are no multiple of 16 bytes. First what was measured, then those by which the fewest bytes pass through a
    processor."""
    if spec.depth % 8:
        return []
    ways = [(splits, waves) for splits in (_AT_ONCE if arch.bulk_copies else (1,)) for waves in _WAVES]
    ways.sort(key=lambda way: _passing_bytes(spec, *way))
    found = [knobs for splits, waves in ways for knobs in _rings(spec, splits, waves, arch)]
    best = (_NARROW if narrow_kind(spec) else _WIDE).get((spec.rows, spec.depth, spec.tokens))
    measured = [best] if best and arch.bulk_copies and fits(spec, best, arch) else []
    return list(dict.fromkeys([*measured, *found]))


def _rows(spec: LinearSpec, splits: int, waves: int) -> int:
    """Of a block, when all are there at once, or so many times as many."""
    return -(-packed_tiles(spec) // (_AT_ONCE[splits] * waves)) * TILE


def _passing_bytes(spec: LinearSpec, splits: int, waves: int) -> int:
    """Of weights, X and sums through one processor. X is what counts: it is read by each block, at 64 tokens four times the weights of 16
    rows."""
    rows, depth = _rows(spec, splits, waves), packed_depth(spec) // splits
    weights = rows // TILE * depth // UNIT * packing.unit_bytes(bool(narrow_kind(spec)))
    sums = 2 * rows * spec.tokens * 4 * (splits - 1) // splits
    return waves * (weights + spec.tokens * depth * 2 + sums) + _CLUSTER_COST[splits]


def _rings(spec: LinearSpec, splits: int, waves: int, arch: Arch) -> Iterator[Ring]:
    """Few tokens: three or four long stages, or many; more tokens: rather shorter ones, so that at least three fit."""
    few = [(512, (4, 3) if narrow_kind(spec) else (3, 4)), (256, (6, 5, 4)), (512, (2,)), (256, (3, 2)), (128, (4, 2)), (64, (4, 2))]
    many = [(256, (4, 3)), (128, (4, 3)), (256, (2,)), (64, (4, 2))]
    lates = (True, False) if splits == 8 and spec.tokens > 32 else (False,)  # 4096x14336: 25.1 and 26.0 µs; 14336x4096: 26.1 and 22.3
    rows = _rows(spec, splits, waves)
    for inputs, counts in few if spec.tokens <= 16 else many:
        warps = _warps(spec, rows, inputs, splits)
        for stages in counts:
            every = [Ring(rows, inputs, stages, *ways, splits, late) for ways in warps for late in lates]
            fitting = [knobs for knobs in every if fits(spec, knobs, arch) and (inputs < 512 or knobs.shared_bytes(spec) <= _LONG)]
            yield from fitting
            if fitting:
                break


def _warps(spec: LinearSpec, rows: int, inputs: int, splits: int) -> list[tuple[int, int, int]]:
    """Two ways to share out a stage: those that read the least from shared memory, of this block and, six times as slow, of others. Reading
    takes longer with less than 8 warps, and where no warp has a second unit to go on with."""
    tiles, groups, units = rows // TILE, spec.tokens // 8, inputs // UNIT
    weights, x = tiles * units * packing.unit_bytes(bool(narrow_kind(spec))), spec.tokens * inputs * 2
    steps, heavy = packed_depth(spec) // inputs // splits, spec.tokens > 32 or narrow_kind(spec)

    def cost(ways: tuple[int, int, int]) -> float:
        by_rows, by_inputs, by_tokens = ways
        warps = by_rows * by_inputs * by_tokens
        idle = (1.4 if warps >= 6 else 1.8) if heavy else 1.3
        slower = (1 if warps >= 8 else idle) * (1.2 if units == by_inputs else 1)
        sums = by_inputs * rows * spec.tokens * 4 * (6 if splits > 1 else 1)
        return steps * (by_tokens * weights + by_rows * x) * slower + sums

    every = [
        (by_rows, by_inputs, by_tokens)
        for by_rows in range(1, min(tiles, 7) + 1)
        for by_inputs in (8, 4, 2, 1)
        for by_tokens in (1, 2, 4)
        if tiles % by_rows == 0 and units % by_inputs == 0 and groups % by_tokens == 0
        if min(4, tiles * units * groups) <= by_rows * by_inputs * by_tokens <= 12
        if tiles // by_rows * (groups // by_tokens) <= _MOST_SUMS // 4
    ]
    return sorted(every, key=cost)[:2]


# rows, depth, tokens → the fastest of about 400 on an H200 (bfloat16, in a graph, over rotated weights).
_WIDE = {
    (14336, 4096, 8): Ring(112, 256, 6, 1, 4),
    (14336, 4096, 16): Ring(112, 256, 5, 1, 4),
    (14336, 4096, 32): Ring(224, 128, 4, 2, 2, 2, 2),
    (14336, 4096, 64): Ring(224, 128, 4, 2, 2, 2, 2),
    (4096, 14336, 8): Ring(64, 256, 4, 1, 4, 1, 2),
    (4096, 14336, 16): Ring(64, 512, 3, 1, 8, 1, 2),
    (4096, 14336, 32): Ring(288, 128, 4, 6, 2, 1, 8),
    (4096, 14336, 64): Ring(288, 128, 3, 6, 1, 2, 8, late=True),
    (6144, 4096, 8): Ring(48, 512, 3, 1, 4),
    (6144, 4096, 16): Ring(96, 256, 4, 1, 4, 1, 2),
    (6144, 4096, 32): Ring(96, 256, 4, 1, 4, 1, 2),
    (6144, 4096, 64): Ring(96, 256, 3, 2, 2, 2, 2),
    (4096, 4096, 8): Ring(32, 512, 3, 1, 8),
    (4096, 4096, 16): Ring(64, 512, 3, 2, 4, 1, 2),
    (4096, 4096, 32): Ring(64, 256, 4, 1, 4, 1, 2),
    (4096, 4096, 64): Ring(144, 128, 4, 3, 2, 2, 4),
}
_NARROW = {
    (14336, 4096, 8): Ring(112, 512, 3, 1, 8),
    (14336, 4096, 16): Ring(112, 512, 3, 1, 8),
    (4096, 14336, 8): Ring(64, 512, 4, 1, 8, 1, 2),
    (4096, 14336, 16): Ring(64, 512, 4, 1, 8, 1, 2),
    (4096, 4096, 8): Ring(32, 512, 4, 1, 8),
    (4096, 4096, 16): Ring(64, 512, 4, 1, 8, 1, 2),
}
