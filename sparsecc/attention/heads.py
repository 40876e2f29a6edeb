"""A block map, head by head, in words."""

from __future__ import annotations

from collections.abc import Iterator

from sparsecc.attention.base import ORDER_NAMES, BlockMap, Choice

MODEL_ORDER = "of the model"
OWN_ORDER = "of its own"  # none of the grid's axes


def densities(found: BlockMap) -> list[float]:
    """The share of the blocks that each head keeps."""
    return (found.keep.sum((1, 2)) / found.full.sum()).tolist()


def orders(found: BlockMap) -> list[str]:
    """The order of each head's tokens: the grid's axes from the outermost, "FHW" and the like, or words."""
    if found.orders is None:
        return [MODEL_ORDER] * found.heads
    if found.orders.dim() == 2:
        return [OWN_ORDER] * found.heads
    return [ORDER_NAMES[order] for order in found.orders.tolist()]


def lines(found: BlockMap, choice: Choice | None = None) -> tuple[str, ...]:
    """A line for each head. choice: what the map costs, if that was measured; of a dense head, what it would cost sparse."""
    dense, costs = set(found.dense_heads), list(_costs(found, choice))
    said = enumerate(zip(densities(found), orders(found), costs, strict=True))
    return tuple(f"head {head}: {_words(head in dense, density, order)}{cost}" for head, (density, order, cost) in said)


def _words(dense: bool, density: float, order: str) -> str:
    return "dense" if dense else f"density {density:.2f}, order {order}"


def _costs(found: BlockMap, choice: Choice | None) -> Iterator[str]:
    if choice is None or choice.lost is None or choice.error is None:
        yield from [""] * found.heads
        return
    for lost, error in zip(choice.lost.tolist(), choice.error.tolist(), strict=True):
        yield f", lost mass {lost:.2g}, output error {error:.2g}"
