from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.lower.layout import TokenLayout, layout_of

shapes = st.lists(st.integers(1, 200), min_size=2, max_size=4).map(tuple)


@given(shape=shapes, lanes=st.sampled_from([4, 8, 16]))
def test_every_token_has_its_place(shape: tuple[int, ...], lanes: int) -> None:
    layout = layout_of(shape, lanes)
    assert layout.sequences * layout.tokens == math.prod(shape[:-1])
    assert layout.tile % lanes == 0
    assert layout.tile <= 4 * lanes
    assert layout.tokens <= layout.padded < layout.tokens + layout.tile
    assert layout.shape(shape[-1]) == (layout.sequences * layout.padded // layout.tile, shape[-1], layout.tile)


@given(shape=shapes, lanes=st.sampled_from([4, 8, 16]))
def test_sequences_stay_apart_only_where_that_is_cheap(shape: tuple[int, ...], lanes: int) -> None:
    layout = layout_of(shape, lanes)
    if layout.sequences > 1:
        assert layout.tokens == shape[-2]
        assert layout.padded <= 1.25 * layout.tokens


def test_examples() -> None:
    assert layout_of((2, 128, 768), 16) == TokenLayout(2, 128, 64)
    assert layout_of((8, 1, 768), 16) == TokenLayout(1, 8, 16)
    assert layout_of((5, 3), 16) == TokenLayout(1, 5, 16)
    assert layout_of((4, 17, 3), 16) == TokenLayout(1, 68, 16)
