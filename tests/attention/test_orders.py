from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsecc.attention import orders
from sparsecc.attention.base import AXIS_ORDERS, BlockMap, Grid, Head

GRIDS = st.builds(Grid, st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.booleans())
CUBES = [(2, 2, 2), (4, 4, 4), (8, 8, 8), (1, 8, 8), (16, 1, 16), (1, 1, 16), (1, 1, 1)]


def coordinates(order: Tensor, grid: Grid) -> Tensor:
    """int64[tokens of the grid, 3], along an order."""
    first = grid.text_tokens if grid.text_first else 0
    video = order[first : first + grid.tokens - grid.text_tokens] - first
    return torch.stack([video // (grid.height * grid.width), video // grid.width % grid.height, video % grid.width], 1)


def is_order(order: Tensor, grid: Grid) -> bool:
    text = torch.arange(grid.tokens)[grid.text]
    return torch.equal(order.sort().values, torch.arange(grid.tokens)) and torch.equal(order[grid.text], text)


@given(grid=GRIDS, block=st.integers(1, 20))
def test_all_are_permutations_that_leave_the_text(grid: Grid, block: int) -> None:
    keys = torch.randn(grid.tokens, 4, generator=torch.Generator().manual_seed(grid.tokens))
    for order in (orders.morton(grid), orders.hilbert(grid), orders.clusters(keys, grid, block)):
        assert is_order(order, grid)


@given(grid=GRIDS)
def test_morton_counts_up_the_bits_of_all_coordinates_in_turn(grid: Grid) -> None:
    def number(place: list[int]) -> int:
        text = ["".join(bits) for bits in zip(*(f"{coordinate:08b}" for coordinate in place), strict=True)]
        return int("".join(text), 2)

    found = [number(place) for place in coordinates(orders.morton(grid), grid).tolist()]
    assert found == sorted(found)


@pytest.mark.parametrize("axes", CUBES)
@pytest.mark.parametrize("text", [0, 3])
def test_along_hilbert_s_curve_each_token_is_a_neighbour_of_the_last(axes: tuple[int, int, int], text: int) -> None:
    grid = Grid(*axes, text)
    steps = coordinates(orders.hilbert(grid), grid).diff(dim=0).abs().sum(1)
    assert (steps == 1).all()


@pytest.mark.parametrize("axes", [(3, 5, 7), (1, 11, 13), (5, 1, 3)])
def test_of_a_grid_that_is_no_cube_the_curves_leave_out_what_is_outside(axes: tuple[int, int, int]) -> None:
    grid = Grid(*axes)
    side = 1 << (max(axes) - 1).bit_length()
    frames, height, width = (side if size > 1 else 1 for size in axes)
    cube = Grid(frames, height, width)
    for curve in (orders.morton, orders.hilbert):
        whole = coordinates(curve(cube), cube)
        inside = whole[(whole < torch.tensor(axes)).all(1)]
        assert torch.equal(coordinates(curve(grid), grid), inside)


def test_along_the_curves_blocks_are_compact() -> None:
    """Of 64 tokens in raster order four whole rows of one frame, along the curves cubes of side 4."""
    grid = Grid(16, 16, 16)
    for curve in (orders.morton, orders.hilbert):
        blocks = coordinates(curve(grid), grid).view(-1, 64, 3)
        assert ((blocks.amax(1) - blocks.amin(1)) == 3).all()


def planted_keys(grid: Grid, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Keys near one of `count` centres each, scattered over the grid, and which one."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(count, (grid.tokens,), generator=generator)
    centres = 5 * torch.randn(count, 16, generator=generator)
    return centres[label] + 0.3 * torch.randn(grid.tokens, 16, generator=generator), label


def test_keys_of_a_cluster_stand_together_in_the_model_s_order() -> None:
    grid = Grid(4, 8, 8, 5)
    keys, label = planted_keys(grid, 8)
    order = orders.clusters(keys, grid, block=32)
    along = label[order[5:]]
    assert int((along.diff() != 0).count_nonzero()) == 7, "each of eight clusters is one run"
    for cluster in range(8):
        assert (order[5:][along == cluster].diff() > 0).all()


def test_clusters_are_the_same_every_time_and_leave_the_generator_alone() -> None:
    grid = Grid(3, 7, 9)
    keys, _ = planted_keys(grid, 5)
    state = torch.random.get_rng_state()
    first, second = (orders.clusters(keys, grid, 16) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_equal_keys_keep_the_model_s_order() -> None:
    grid = Grid(2, 4, 4)
    assert torch.equal(orders.clusters(torch.ones(32, 4), grid, 8), torch.arange(32))


def test_orders_of_axes_alone_are_stored_by_number_and_all_have_names() -> None:
    grid = Grid(3, 4, 5, 2)
    axes = [grid.permutation(order) for order in range(len(AXIS_ORDERS))]
    stored = orders.compact(axes, grid)
    assert (stored.dtype, stored.tolist()) == (torch.uint8, list(range(6)))
    mine = torch.cat([torch.arange(2), torch.arange(61, 1, -1)])
    mixed = [axes[4], orders.hilbert(grid), orders.morton(grid), mine]
    stored = orders.compact(mixed, grid)
    assert (stored.dtype, stored.shape) == (torch.int32, (4, 62))
    blocks = grid.blocks(8)
    found = BlockMap(grid, 8, stored, torch.ones(4, blocks, blocks, dtype=torch.bool))
    assert torch.equal(found.places(), torch.stack(mixed))
    assert orders.names(found) == ["WFH", "Hilbert", "Morton", "own"]
    assert set(orders.names(found)) <= set(orders.NAMES)
    assert orders.names(replace(found, orders=None)) == [""] * 4


def test_a_row_for_each_head() -> None:
    grid, keep = Grid(2, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool)
    keep[1] = torch.eye(4, dtype=torch.bool)
    found = BlockMap(grid, 8, torch.tensor([0, 4], dtype=torch.uint8), keep)
    assert orders.head_rows(found) == [Head("FHW", 1.0), Head("WFH", 0.25)]
    rows = orders.head_rows(replace(found, orders=None), torch.tensor([0.0, 0.5]), torch.tensor([0.0, 0.25]))
    assert rows == [Head("", 1.0, 0.0, 0.0), Head("", 0.25, 0.5, 0.25)]
