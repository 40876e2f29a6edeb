"""The block maps that are compared: every pattern there is, and PARO's choice of blocks without its orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sparsecc import attention, registry
from sparsecc.attention.base import Asked, BlockMap, Grid, Pattern, Sample
from sparsecc.attention.dynamic import DynamicMap

PARO = "paro"
MOST_MORE = 0.05
RASTER = "raster order, blocks as paro"  # paro:raster, by a name that does not count among PARO's own


def variants(also: Sequence[str] = ()) -> dict[str, Pattern]:
    """By the name in the table: PARO, the same in raster order, all other members of `attention` by their defaults, and those `also`
    given as recipes name them."""
    others = [name for name in registry.members("attention") if name != PARO]
    return {
        PARO: attention.create(PARO),
        RASTER: attention.create("paro:raster"),
        **{key: attention.create(key) for key in (*others, *also)},
    }


def block_map(pattern: Pattern, asked: Asked) -> BlockMap | DynamicMap:
    """A pattern's map of the density asked for. Of a pattern that cannot have just that one, the densest that has less or the sparsest that
    has more, whichever is nearer."""
    if not pattern.needs_samples:
        asked = replace(asked, samples=())  # which would only tell what the map costs
    least = asked.density - 0.5 / asked.grid.blocks(asked.block) ** 2  # half of a block in a head
    found = pattern.choose(asked).map
    more = asked.density
    while found.density < least and (more := more + 0.01) < min(asked.density + 2 * MOST_MORE, 1.0):
        other = pattern.choose(replace(asked, density=more)).map
        if other.density >= least:
            return other if other.density - asked.density <= asked.density - found.density else found
        found = max(found, other, key=lambda one: one.density)
    return found


def asked_of(samples: Sequence[Sample], grid: Grid, density: float, block: int) -> Asked:
    """samples: of one site."""
    heads, head_dim = samples[0].q.shape[1], samples[0].q.shape[3]
    return Asked(grid, heads, head_dim**-0.5, density, block, samples=samples)
