"""Orders of the tokens of one head: int64[tokens], the token that comes to each place. Text stays where it is.

axes: the six orders of the grid's axes. morton, hilbert: space-filling curves over the grid, along which tokens that are near in space
and time stay near in the sequence. clusters: tokens whose keys are alike stand together, wherever they lie.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparsecc.attention.base import AXIS_ORDERS, BLOCK, ORDER_NAMES, BlockMap, Grid, Head

SEED, TRIALS, ROUNDS = 0, 8, 10
NAMES = (*ORDER_NAMES, "Morton", "Hilbert", "own")


def morton(grid: Grid) -> Tensor:
    """Z-order: along the number whose bits are those of frame, row and column in turn, the highest first (Morton 1966)."""
    places = _coordinates(grid)
    return _sorted(grid, _interleaved(places, _bits(grid)))


def hilbert(grid: Grid) -> Tensor:
    """The Hilbert curve through the smallest cube of a power of two that holds the grid, without what lies outside; in two dimensions or
    one where the other sides are 1. In a whole cube each token is a neighbour of the one before it.

    By Skilling's transform (Programming the Hilbert curve, 2004): from the highest bit down, coordinates are reflected and swapped, so
    that each subcube is entered where the last one was left; a Gray code and its carries then turn them into the number's bits.
    """
    used = [coordinate for coordinate, size in zip(_coordinates(grid), grid.axes, strict=True) if size > 1]
    bits = _bits(grid)
    if not used or not bits:
        return torch.arange(grid.tokens)
    for bit in reversed(range(1, bits)):
        low = (1 << bit) - 1
        for axis in range(len(used)):
            is_set = used[axis] >> bit & 1 == 1
            swapped = torch.where(is_set, 0, (used[0] ^ used[axis]) & low)
            used[0] = used[0] ^ torch.where(is_set, low, swapped)
            used[axis] = used[axis] ^ swapped if axis else used[0]
    for axis in range(1, len(used)):
        used[axis] = used[axis] ^ used[axis - 1]
    carry = torch.zeros_like(used[0])
    for bit in range(1, bits):
        carry = carry ^ torch.where(used[-1] >> bit & 1 == 1, (1 << bit) - 1, 0)
    return _sorted(grid, _interleaved([coordinate ^ carry for coordinate in used], bits))


def clusters(keys: Tensor, grid: Grid, block: int = BLOCK) -> Tensor:
    """Tokens by the cluster that their keys fall into, within a cluster as the model has them; as many clusters as there are blocks of
    tokens on the grid. keys: [tokens, head_dim] of one head.

    k-means: centres by greedy k-means++ (Arthur and Vassilvitskii 2007), always with the same seed, then `ROUNDS` rounds of Lloyd's.
    Clusters may have any size, so that a block can hold several: they follow each other as a chain, each the nearest of those left.
    """
    points = keys[_on_grid(grid)].float()
    centres = _seeded(points, max(1, round(len(points) / block)))
    for _ in range(ROUNDS):
        nearest = _nearest(points, centres)
        counts = nearest.bincount(minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    rank = torch.empty(len(centres), dtype=torch.int64)
    rank[_chain(centres)] = torch.arange(len(centres))
    return _sorted(grid, rank[_nearest(points, centres)])


def names(found: BlockMap) -> list[str]:
    """What the order of each head is called: 'FHW', 'Morton', 'Hilbert', 'own' for any other, as of clusters, or '' where all tokens keep
    the model's."""
    if found.orders is None:
        return [""] * found.heads
    if found.orders.dim() == 1:
        return [ORDER_NAMES[order] for order in found.orders.tolist()]
    known = list(_known(found.grid))
    return [next((name for name, order in known if torch.equal(order, tokens)), "own") for tokens in found.places().cpu()]


def head_rows(found: BlockMap, lost: Tensor | None = None, error: Tensor | None = None) -> list[Head]:
    """What is to be said of each head. lost, error: as in `Choice`."""
    costs = ([None] * found.heads if cost is None else cost.tolist() for cost in (lost, error))
    return [Head(*row) for row in zip(names(found), found.head_densities, *costs, strict=True)]


def _known(grid: Grid) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, grid.permutation(order)) for order, name in enumerate(ORDER_NAMES))
    yield from (("Morton", morton(grid)), ("Hilbert", hilbert(grid)))


def compact(chosen: list[Tensor], grid: Grid) -> Tensor:
    """Of the order of each head what a BlockMap holds: uint8[heads] where all are orders of axes, int32[heads, tokens] otherwise."""
    axes = [grid.permutation(order) for order in range(len(AXIS_ORDERS))]
    numbers = [next((number for number, order in enumerate(axes) if torch.equal(order, tokens)), None) for tokens in chosen]
    known = [number for number in numbers if number is not None]
    return torch.tensor(known, dtype=torch.uint8) if len(known) == len(chosen) else torch.stack(chosen).to(torch.int32)


def _on_grid(grid: Grid) -> slice:
    """The positions of all tokens but the text."""
    first = grid.text_tokens if grid.text_first else 0
    return slice(first, first + grid.tokens - grid.text_tokens)


def _coordinates(grid: Grid) -> list[Tensor]:
    """int64[tokens of the grid] each: frame, row and column, in raster order."""
    axes = torch.meshgrid(*(torch.arange(size) for size in grid.axes), indexing="ij")
    return [axis.reshape(-1) for axis in axes]


def _bits(grid: Grid) -> int:
    return (max(grid.axes) - 1).bit_length()


def _interleaved(coordinates: list[Tensor], bits: int) -> Tensor:
    """The number with the bits of all coordinates in turn, highest first, of the first coordinate before those of the others."""
    number = torch.zeros_like(coordinates[0])
    for bit in reversed(range(bits)):
        for coordinate in coordinates:
            number = number << 1 | (coordinate >> bit & 1)
    return number


def _sorted(grid: Grid, rank: Tensor) -> Tensor:
    """The order in which the tokens of the grid stand by rank, on a tie as the model has them."""
    tokens = torch.arange(grid.tokens)
    video = tokens[_on_grid(grid)]
    tokens[_on_grid(grid)] = video[rank.argsort(stable=True)]
    return tokens


def _seeded(points: Tensor, count: int) -> Tensor:
    """Greedy k-means++: of `TRIALS` points that are drawn, each with the square of its distance to the nearest centre so far as its weight,
    the one becomes a centre that leaves the least distance."""
    generator = torch.Generator().manual_seed(SEED)
    centres = points[:1]
    distance = (points - centres).square().sum(1)
    while len(centres) < count and distance.max() > 0:
        weights = distance.double().cumsum(0)
        drawn = points[torch.searchsorted(weights, weights[-1] * torch.rand(TRIALS, generator=generator), right=True)]
        left = torch.minimum(distance[:, None], torch.cdist(points, drawn).square())
        best = left.double().sum(0).argmin()
        centres, distance = torch.cat([centres, drawn[best, None]]), left[:, best]
    return centres


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """int64[points]: the nearest centre of each, on a tie the first."""
    return (centres.square().sum(1) - 2 * points @ centres.t()).argmin(1)


def _chain(centres: Tensor) -> Tensor:
    """The centres' order: from the first on always to the nearest one left."""
    between = torch.cdist(centres, centres)
    chain = [0]
    for _ in range(len(centres) - 1):
        between[:, chain[-1]] = torch.inf
        chain.append(int(between[chain[-1]].argmin()))
    return torch.tensor(chain)
