from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.cpu.layout import TokenLayout, Value, layout_for, layout_of, tiles_of

shapes = st.lists(st.integers(1, 200), min_size=2, max_size=4).map(tuple)
lanes = st.sampled_from([4, 8, 16])


@given(shape=shapes, lanes=lanes)
def test_every_token_has_its_place(shape: tuple[int, ...], lanes: int) -> None:
    for layout in (layout_of(shape, lanes), tiles_of(shape, lanes)):
        assert layout.sequences * layout.tokens == math.prod(shape[:-1])
        assert layout.tile % lanes == 0 or layout.as_they_are
        assert layout.tile <= 4 * lanes
        assert layout.tokens <= layout.padded < layout.tokens + layout.tile
        assert layout.shape(shape[-1]) == (layout.sequences * layout.padded // layout.tile, shape[-1], layout.tile)


@given(shape=shapes, lanes=lanes)
def test_few_tokens_stay_as_they_are(shape: tuple[int, ...], lanes: int) -> None:
    layout, tokens = layout_of(shape, lanes), math.prod(shape[:-1])
    assert layout.as_they_are == (tokens <= 8)
    assert layout == (TokenLayout(1, tokens, 1) if tokens <= 8 else tiles_of(shape, lanes))
    assert not tiles_of(shape, lanes).as_they_are


@given(shape=shapes, lanes=lanes)
def test_sequences_stay_apart_only_where_that_is_cheap(shape: tuple[int, ...], lanes: int) -> None:
    layout = layout_of(shape, lanes)
    if layout.sequences > 1:
        assert layout.tokens == shape[-2]
        assert layout.padded <= 1.25 * layout.tokens


def test_examples() -> None:
    assert layout_of((2, 128, 768), 16) == TokenLayout(2, 128, 64)
    assert layout_of((9, 1, 768), 16) == TokenLayout(1, 9, 16)
    assert layout_of((4, 17, 3), 16) == TokenLayout(1, 68, 48)
    assert layout_of((4, 72, 3), 16) == TokenLayout(4, 72, 16)
    assert layout_of((1, 72, 3), 16) == TokenLayout(1, 72, 48)
    assert layout_of((2, 4, 768), 16) == TokenLayout(1, 8, 1)
    assert tiles_of((5, 3), 16) == TokenLayout(1, 5, 16)


def test_a_value_keeps_its_tiles_unless_its_tokens_are_few() -> None:
    apart, few = TokenLayout(2, 128, 64), TokenLayout(2, 4, 16)
    assert layout_for(Value((1, 256, 8), tiled="tiles", layout=apart), 16) == apart
    assert layout_for(Value((2, 4, 8), tiled="tiles", layout=few), 16) == TokenLayout(1, 8, 1)
    assert layout_for(Value((2, 128, 4, 2), tiled="tiles", layout=apart, heads="bshd"), 16) == tiles_of((2, 128, 4, 2), 16)
