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
_CLUSTER_COST = {1: 0, 2: 40_000, 4: 60_000, 8: 80_000}  # in bytes that could have passed meanwhile: 6144x4096, 8 and 16 tokens


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
        """Of a lane, about: sums, two steps' fragments, places, addresses."""
        tiles, groups = self.rows // TILE // self.row_warps, spec.tokens // 8 // self.token_warps
        return 4 * tiles * groups + 8 * tiles + 8 * groups + (10 if narrow_kind(spec) else 2) * tiles + 32

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
    """Nothing where rows of X are no multiple of 16 bytes. First those by which the fewest bytes pass through a processor."""
    if spec.depth % 8:
        return []
    splits = sorted(_AT_ONCE if arch.bulk_copies else (1,), key=lambda number: _passing_bytes(spec, number))
    found = [knobs for number in splits for rows in _rows(spec, number) for knobs in _rings(spec, rows, number, arch)]
    return list(dict.fromkeys(found))


def _rows(spec: LinearSpec, splits: int) -> list[int]:
    """Of blocks that are all there at once, then of smaller ones."""
    tiles = packed_tiles(spec)
    return [-(-tiles // (_AT_ONCE[splits] * waves)) * TILE for waves in (1, 2, 3, 4, 8, 16)]


def _passing_bytes(spec: LinearSpec, splits: int) -> int:
    """Of weights, X and sums of one block. X is what counts: it is read by each block, at 64 tokens four times the weights of 16 rows."""
    rows, depth = _rows(spec, splits)[0], packed_depth(spec) // splits
    weights = rows // TILE * depth // UNIT * packing.unit_bytes(bool(narrow_kind(spec)))
    sums = 2 * rows * spec.tokens * 4 * (splits - 1) // splits
    return weights + spec.tokens * depth * 2 + sums + _CLUSTER_COST[splits]


def _rings(spec: LinearSpec, rows: int, splits: int, arch: Arch) -> Iterator[Ring]:
    """Few tokens: three long stages, or many; more tokens: rather shorter ones, so that at least three fit."""
    few = [(512, (3, 4)), (256, (6, 5, 4)), (512, (2,)), (256, (3, 2)), (128, (4, 2)), (64, (4, 2))]
    many = [(256, (4, 3)), (128, (4, 3)), (256, (2,)), (64, (4, 2))]
    lates = (True, False) if splits == 8 else (False,)  # 4096x14336, 64 tokens: 25.1 and 26.0 µs; 14336x4096: 26.1 and 22.3
    for inputs, counts in few if spec.tokens <= 16 else many:
        for stages in counts:
            every = [Ring(rows, inputs, stages, *ways, splits, late) for ways in _warps(spec, rows, inputs) for late in lates]
            fitting = [knobs for knobs in every if fits(spec, knobs, arch)]
            yield from fitting
            if fitting:
                break


def _warps(spec: LinearSpec, rows: int, inputs: int) -> list[tuple[int, int, int]]:
    """Two ways to share out a stage, those that read the least from shared memory; with less than 8 warps reading takes longer."""
    tiles, groups, units = rows // TILE, spec.tokens // 8, inputs // UNIT
    weights, x = tiles * units * packing.unit_bytes(bool(narrow_kind(spec))), spec.tokens * inputs * 2

    def cost(ways: tuple[int, int, int]) -> float:
        by_rows, by_inputs, by_tokens = ways
        return (by_tokens * weights + by_rows * x) * (1 if by_rows * by_inputs * by_tokens >= 8 else 1.4)

    every = [
        (by_rows, by_inputs, by_tokens)
        for by_rows in range(1, tiles + 1)
        for by_inputs in (8, 4, 2, 1)
        for by_tokens in (1, 2, 4)
        if tiles % by_rows == 0 and units % by_inputs == 0 and groups % by_tokens == 0
        if min(4, tiles * units * groups) <= by_rows * by_inputs * by_tokens <= 12
        if Ring(rows, inputs, 2, by_rows, by_inputs, by_tokens).registers(spec) <= min(255, 65536 // (by_rows * by_inputs * by_tokens * 32))
    ]
    return sorted(every, key=cost)[:2]
