from __future__ import annotations

import itertools

import pytest
import torch

from sparsecc import attention, registry
from sparsecc.attention.base import (
    AXIS_ORDERS,
    ORDER_NAMES,
    BlockMap,
    Grid,
    least_density,
    required,
)
from sparsecc.errors import RecipeError

GRID = Grid(2, 3, 4, text_tokens=3)
BLOCKS = 7  # of 4 tokens


def orders(*indices: int) -> torch.Tensor:
    return torch.tensor(indices, dtype=torch.uint8)


def everything(heads: int = 1, blocks: int = BLOCKS) -> torch.Tensor:
    return torch.ones(heads, blocks, blocks, dtype=torch.bool)


def test_every_member_is_made_by_its_name() -> None:
    for name in registry.members("attention"):
        assert type(attention.create(name)).__module__ == f"sparsecc.attention.{name}"
    with pytest.raises(RecipeError, match="did you mean 'paro'"):
        attention.create("para")


def test_orders_are_numbered_as_kernels_and_files_number_them() -> None:
    assert AXIS_ORDERS == ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    assert ORDER_NAMES == ("FHW", "FWH", "HFW", "HWF", "WFH", "WHF")


@pytest.mark.parametrize("text_first", [True, False])
@pytest.mark.parametrize("order", range(6))
def test_a_permutation_walks_the_grid_in_its_order_and_leaves_the_text(order: int, text_first: bool) -> None:
    grid = Grid(2, 3, 4, 3, text_first)
    place = {token: i for i, token in enumerate(itertools.product(range(2), range(3), range(4)))}
    sides = [range(grid.axes[axis]) for axis in AXIS_ORDERS[order]]
    walked = []
    for steps in itertools.product(*sides):
        token = [0, 0, 0]
        for axis, step in zip(AXIS_ORDERS[order], steps, strict=True):
            token[axis] = step
        walked.append(place[token[0], token[1], token[2]])
    expected = [0, 1, 2, *(token + 3 for token in walked)] if text_first else [*walked, 24, 25, 26]
    assert grid.permutation(order).tolist() == expected


def test_blocks_that_hold_text() -> None:
    assert Grid(1, 1, 9, 3).text_blocks(4).tolist() == [True, False, False]
    assert Grid(1, 1, 9, 5).text_blocks(4).tolist() == [True, True, False, False]
    assert Grid(1, 1, 9, 4, text_first=False).text_blocks(4).tolist() == [False, False, True, True]
    assert not Grid(1, 1, 9).text_blocks(4).any()


def test_what_is_always_kept() -> None:
    assert required(Grid(1, 1, 9, 3), 4).tolist() == [[True, True, True], [True, True, False], [True, False, True]]
    assert least_density(Grid(1, 1, 9, 3), 4) == 7 / 9


@pytest.mark.parametrize("sizes", [(0, 1, 1, 0), (1, 1, -2, 0), (1, 1, 1, -1)])
def test_a_grid_that_cannot_be(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Grid(*sizes)


def test_rows_are_the_tokens_of_the_kept_blocks() -> None:
    keep = required(Grid(2, 2, 2), 3).unsqueeze(0).clone()
    keep[0, 0, 2] = True
    rows = [(head, queries.tolist(), keys.tolist()) for head, queries, keys in BlockMap(Grid(2, 2, 2), 3, orders(5), keep).rows()]
    assert rows == [(0, [0, 4, 2], [0, 4, 2, 3, 7]), (0, [6, 1, 5], [6, 1, 5]), (0, [3, 7], [3, 7])]


def test_density_and_dense_heads() -> None:
    keep = torch.stack([required(Grid(2, 2, 2), 3), torch.ones(3, 3, dtype=torch.bool)])
    block_map = BlockMap(Grid(2, 2, 2), 3, orders(5, 0), keep)
    assert (block_map.heads, block_map.density, block_map.dense_heads) == (2, 12 / 18, [1])


def with_hole(row: int, column: int) -> torch.Tensor:
    keep = everything()
    keep[0, row, column] = False
    return keep


def with_empty_row() -> torch.Tensor:
    keep = everything(blocks=6)
    keep[0, 3] = False
    return keep


@pytest.mark.parametrize(
    ("grid", "indices", "keep", "reason"),
    [
        (GRID, orders(6), everything(), "below 6"),
        (GRID, torch.tensor([1]), everything(), "uint8"),
        (GRID, orders(), everything(0), "uint8"),
        (GRID, orders(1), everything(2), r"keep is \(2, 7, 7\), for 27 tokens it has to be \(1, 7, 7\)"),
        (GRID, orders(1), everything(1, 6), "keep is"),
        (GRID, orders(1), everything().float(), "keep is"),
        (GRID, orders(1), with_hole(0, 5), "holds text"),
        (GRID, orders(1), with_hole(5, 0), "holds text"),
        (Grid(2, 3, 4), orders(1), with_empty_row(), "a row of blocks is empty"),
    ],
)
def test_what_is_no_map(grid: Grid, indices: torch.Tensor, keep: torch.Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        BlockMap(grid, 4, indices, keep)


CAUSAL = required(Grid.line(9), 4, causal=True).unsqueeze(0)


def test_a_causal_map_is_measured_by_what_is_up_to_the_diagonal() -> None:
    assert required(Grid.line(9, 3), 4, causal=True).tolist() == [[True, False, False], [True, True, False], [True, False, True]]
    assert least_density(Grid.line(9, 3), 4, causal=True) == 5 / 6
    found = BlockMap(Grid.line(9), 4, None, torch.cat([CAUSAL, torch.ones_like(CAUSAL).tril()]), causal=True)
    assert (found.density, found.dense_heads) == (9 / 12, [1])
    assert torch.equal(found.places(), torch.arange(9).expand(2, -1))


@pytest.mark.parametrize(
    ("indices", "keep", "reason"),
    [
        (orders(1), CAUSAL, "has one order of tokens"),
        (None, torch.ones_like(CAUSAL), "no block above it"),
        (None, torch.ones_like(CAUSAL).tril(-1) | torch.eye(3, dtype=torch.bool).roll(1, 1), "keeps its diagonal"),
    ],
)
def test_what_is_no_causal_map(indices: torch.Tensor | None, keep: torch.Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        BlockMap(Grid.line(9), 4, indices, keep, causal=True)


def test_any_order_that_leaves_the_text_where_it_is() -> None:
    grid, keep = Grid.line(9, 2), everything(2, 3)
    order = torch.tensor([[0, 1, 8, 7, 6, 5, 4, 3, 2], [0, 1, 2, 4, 3, 5, 6, 7, 8]], dtype=torch.int32)
    found = BlockMap(grid, 4, order, keep)
    assert torch.equal(found.places(), order.long())
    assert next(found.rows())[1].tolist() == [0, 1, 8, 7]
    for wrong, reason in [(order.flip(1), "moves the text"), (order.clamp(max=7), "leaves out a token"), (order.long(), "int32")]:
        with pytest.raises(ValueError, match=reason):
            BlockMap(grid, 4, wrong, keep)
