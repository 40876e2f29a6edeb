from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.cuda.streams import BLOCK, LANES, UNIT, pack, strips, units, unpack


def weight(rows: int, depth: int, kept: float, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(rows, depth, generator=made).to(dtype) * (torch.rand(rows, depth, generator=made) < kept)


@given(
    st.integers(1, 40),
    st.integers(1, 300).map(lambda count: 8 * count),
    st.sampled_from([0.0, 0.003, 0.1, 0.4, 1.0]),
    st.booleans(),
    st.sampled_from([torch.bfloat16, torch.float16]),
    st.integers(0, 9),
)
def test_unpack_is_its_inverse(rows: int, depth: int, kept: float, gated: bool, dtype: torch.dtype, seed: int) -> None:
    dense = weight(2 * rows if gated else rows, depth, kept, dtype, seed)
    dense[0], dense[-1] = 0, 1  # an empty row and a full one
    data, starts, lengths = pack(dense, gated)
    assert starts[0] == 0 and max(UNIT, starts[-1] * UNIT) == len(data)
    assert len(starts) - 1 == len(lengths) == strips(rows, gated) * units(depth)
    assert torch.equal(unpack(data, starts, lengths, len(dense), depth, dtype, gated), dense)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e-40, -0.0])
def test_odd_numbers_stay(value: float) -> None:
    dense = torch.zeros(8, 64, dtype=torch.bfloat16)
    dense[3, 5] = value
    back = unpack(*pack(dense), 8, 64, dense.dtype)
    torch.testing.assert_close(back, dense, rtol=0, atol=0, equal_nan=True)


def test_nothing_takes_the_lengths_alone() -> None:
    data, starts, lengths = pack(torch.zeros(64, 2048, dtype=torch.float16))
    assert len(data) == UNIT and not starts.any() and not lengths.any() and lengths.shape[1] == LANES


@pytest.mark.parametrize(("kept", "most"), [(1.0, 2.52), (0.4, 2.7), (0.2, 3.0), (0.1, 3.8)])
def test_an_entry_takes_little_more_than_its_number_and_gap(kept: float, most: float) -> None:
    dense = weight(256, 4096, kept)
    data, _, _ = pack(dense)
    assert 2 + 4 / BLOCK <= len(data) / torch.count_nonzero(dense) < most


def test_many_units_are_packed_piece_by_piece() -> None:
    dense = weight(16 * 1100, 8, 0.5)
    assert torch.equal(unpack(*pack(dense), len(dense), 8, dense.dtype), dense)
