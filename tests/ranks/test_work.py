from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.ranks import work
from sparsecc.ranks.work import CHUNKS, chunks, each, of_first, share, streamed, turns
from sparsecc.ranks.world import World


@given(count=st.integers(0, 200))
def test_chunks_are_all_samples_in_order_whatever_the_ranks(count: int) -> None:
    found = chunks(count)
    assert [i for chunk in found for i in chunk] == list(range(count))
    assert len(found) == min((count + 1) // 2, CHUNKS)
    assert max(map(len, found), default=0) - min(map(len, found), default=0) <= 1


@given(count=st.integers(1, 60), size=st.integers(1, 20))
def test_turns_of_all_ranks_are_the_chunks_in_order(count: int, size: int) -> None:
    by_rank = []
    for rank in range(size):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(work, "world", lambda rank=rank: World(rank, size))
            by_rank.append(turns(count))
    assert len({len(found) for found in by_rank}) == 1
    assert [chunk for turn in zip(*by_rank, strict=True) for chunk in turn if chunk is not None] == chunks(count)


@given(costs=st.lists(st.floats(0, 1e9), max_size=30), ranks=st.integers(1, 8))
def test_no_rank_has_more_than_its_part_and_one_item(costs: list[float], ranks: int) -> None:
    owners = share(costs, ranks)
    loads = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(ranks)]
    assert max(loads) <= sum(costs) / ranks + max(costs, default=0.0) + 1e-3


def test_the_dearest_goes_first_and_the_lower_rank_wins_a_tie() -> None:
    assert share([1, 5, 1, 4], 2) == [1, 0, 0, 1]
    assert share([1, 1, 1], 2) == [0, 1, 0]
    assert share([], 3) == []


def test_one_process_works_when_it_is_asked() -> None:
    done: list[int] = []

    def noted(item: int) -> int:
        done.append(item)
        return -item

    for made in (each("here", [1, 2], float, noted), streamed("here", iter([1, 2]), [1, 1], [8, 8], noted)):
        done.clear()
        assert next(made) == -1
        assert done == [1]
        assert list(made) == [-2]
    assert of_first("here", lambda: 3) == 3


def test_stretches_fit_in_memory() -> None:
    assert list(work._stretches([3, 3, 3, 9, 1], 6)) == [range(2), range(2, 3), range(3, 4), range(4, 5)]
    assert list(work._stretches([], 6)) == []
