"""Who does what, and in which order results come together: the same for any number of ranks, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from sparsecc.ranks.world import world

T = TypeVar("T")
R = TypeVar("R")
CHUNKS = 16  # of calibration samples, each summed by itself; more ranks than that find no samples to divide
_FEWEST = 2  # samples of a chunk: 16 samples of 32 tokens for 1536 inputs take 3.6 times as long to be summed one by one as together
_HELD = 2**30  # bytes of what is measured before ranks work on it, in each of them


def chunks(count: int) -> list[range]:
    """`count` samples in at most CHUNKS runs of about the same length, whatever the number of ranks."""
    pieces = min(CHUNKS, -(-count // _FEWEST))
    return [range(i * count // pieces, (i + 1) * count // pieces) for i in range(pieces)]


def turns(count: int) -> list[range | None]:
    """This rank's chunk of each turn, in which each rank has one at most, in their order; None where none is left for it."""
    found, now = chunks(count), world()
    own = range(now.rank, -(-len(found) // now.size) * now.size, now.size)
    return [found[i] if i < len(found) else None for i in own]


def blocks(count: int) -> list[slice]:
    """What each rank takes of `count` places in a row that take it equally long."""
    size = world().size
    return [slice(rank * count // size, (rank + 1) * count // size) for rank in range(size)]


def share(costs: Sequence[float], ranks: int) -> list[int]:
    """The rank that each item goes to: the dearest first, to the rank that has least to do so far."""
    loads, owners = [0.0] * ranks, [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        owners[i] = min(range(ranks), key=lambda rank: (loads[rank], rank))
        loads[owners[i]] += costs[i]
    return owners


def each(where: str, items: Sequence[T], cost: Callable[[T], float], work: Callable[[T], R]) -> Iterator[R]:
    """`work` of each item, in order, on all ranks, each of which does its share of it. Results may be large, and travel one by one."""
    now = world()
    if now.size == 1:
        yield from map(work, items)
        return
    owners = share([cost(item) for item in items], now.size)
    mine = {i: work(item) for i, (item, owner) in enumerate(zip(items, owners, strict=True)) if owner == now.rank}
    now.exchange(where, None)
    for i, owner in enumerate(owners):
        yield now.given(mine.pop(i, None), owner)


def streamed(where: str, made: Iterable[T], costs: Sequence[float], sizes: Sequence[int], work: Callable[[T], R]) -> Iterator[R]:
    """`work` of each item that all ranks make together one after another, in order, on all ranks. Results are small.

    Each rank keeps the items that it works on: those of one stretch at a time, as long as they fit `_HELD` bytes in each.
    costs, sizes: of the items, in bytes.
    """
    now, making = world(), iter(made)
    if now.size == 1:
        yield from map(work, making)
        return
    for stretch in _stretches(sizes, _HELD * now.size):
        owners = share([costs[i] for i in stretch], now.size)
        mine = [item for owner, item in zip(owners, making, strict=False) if owner == now.rank]
        found = [iter(results) for results in now.exchange(where, [work(item) for item in mine])]
        yield from (next(found[owner]) for owner in owners)


def _stretches(sizes: Sequence[int], most: int) -> Iterator[range]:
    start = held = 0
    for i, size in enumerate(sizes):
        if held + size > most and i > start:
            yield range(start, i)
            start, held = i, 0
        held += size
    if start < len(sizes):
        yield range(start, len(sizes))


def of_first(where: str, work: Callable[[], T]) -> T:
    """What rank 0 makes of it, on all ranks: times, and what takes one process."""
    now = world()
    made = work() if now.leads else None
    now.exchange(where, None)
    return now.given(made, 0) if now.size > 1 else made  # pyright: ignore[reportReturnType]  # rank 0 of one has made it
