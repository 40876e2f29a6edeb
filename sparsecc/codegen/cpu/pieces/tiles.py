"""Knobs of kernels with positions in the vector lanes, which pass over tiles of the output: their space, and guesses at the best."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.spec import MatmulSpec, ceil_div


@dataclass(frozen=True)
class Tiles(Knobs):
    """tile: positions per inner kernel, a multiple of the vector width.  rows: outputs that share each load of X.
    panel: inputs whose X stays in cache while all rows pass over it (a divisor of the depth, see `panel_of`).
    groups: parts that the rows are divided into, so that every thread has work. A thread takes all positions through a part before it
    goes on to the next: the part's weights stay in its cache."""

    tile: int
    rows: int
    panel: int
    groups: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.tile} panel={self.panel} groups={self.groups}"


_PANEL = 64  # inputs: the narrowest panel that a search tries
_GROUPS = (1, 2, 3, 4, 6, 8, 12, 16)
_MANY_JOBS = 16  # of a thread, of which one more is little
# What a token costs by the vectors of its tile. Measured on Zen 5, 192 tokens: sparse kernels 1.65 to 2.5, 1.1 to 1.5, 1 to 1.2, and 1,
# since a tile of one vector has little to do for each place that is looked up; dense ones 1.1, 1, 1, 1.
_PER_TOKEN = {1: 1.5, 2: 1.1, 3: 1.0, 4: 1.0}


def tile_for(tokens: int, lanes: int, most: float = inf) -> int:
    """The tile in which tokens cost least, padding included, of those that pad to `most` at most where there is one. Ties go to the larger
    tile."""
    padded = {vectors * lanes: ceil_div(tokens, vectors * lanes) * vectors * lanes for vectors in _PER_TOKEN}
    fitting = [tile for tile, size in padded.items() if size <= most] or [lanes]
    return min(fitting, key=lambda tile: (padded[tile] * _PER_TOKEN[tile // lanes], -tile))


def groups_for(jobs: int, threads: int, row_blocks: int) -> int:
    """Smallest division of the rows with which every thread gets the same number of jobs, or so many that one more is little."""
    groups = 1
    while (jobs * groups) % threads and jobs * groups < _MANY_JOBS * threads and groups < row_blocks:
        groups += 1
    return groups


def makespan(jobs: int, threads: int) -> int:
    """Jobs of the thread that has most, times the threads."""
    return ceil_div(jobs, threads) * threads


def widened(first: list[Tiles], spec: MatmulSpec, tiles: dict[int, list[int]]) -> list[Tiles]:
    """The guesses, then everything that a search may try besides. tiles: rows to try with each tile."""
    found = [
        Tiles(tile, rows, panel, groups)
        for tile, every in tiles.items()
        for rows in every
        for panel in panels_of(spec)
        for groups in _GROUPS
        if groups <= ceil_div(spec.rows, rows)
    ]
    return list(dict.fromkeys([*first, *found]))


def panels_of(spec: MatmulSpec) -> list[int]:
    """Panels of all sizes that may be worth trying; first the whole depth."""
    sizes = (spec.depth, *(_PANEL << i for i in range(6)), *(3 * _PANEL << i for i in range(4)))
    return list(dict.fromkeys(panel_of(spec, most) for most in sizes))


def panel_of(spec: MatmulSpec, most: int) -> int:
    """The largest panel of at most `most` inputs: whole taps when a tap is smaller, otherwise an equal part of one tap's channels."""
    if spec.channels > most:
        return max(d for d in range(1, most + 1) if spec.channels % d == 0)
    return spec.channels * max(d for d in _divisors(len(spec.taps)) if d == 1 or d * spec.channels <= most)


def x_of_panel(spec: MatmulSpec, tile: int, panel: int) -> int:
    """Elements of X that a tile reads in a panel. Neighbouring taps read the same ones."""
    if panel <= spec.channels:
        return panel * tile
    taps = panel // spec.channels
    spans = [max(part) - min(part) for part in (spec.taps[at : at + taps] for at in range(0, len(spec.taps), taps))]
    return spec.channels * min(taps * tile, max(spans) + tile)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
