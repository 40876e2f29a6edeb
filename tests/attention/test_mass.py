from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sparsecc.attention import mass
from tests.tolerance import assert_close


def inputs(tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    q, k, v = (torch.randn(tokens, 8, generator=generator) for _ in range(3))
    return q, k, v


@pytest.mark.parametrize("tokens", [1, 7, 8, 33])
def test_mass_and_evenness_of_the_whole_map_by_blocks(tokens: int) -> None:
    block, (q, k, _) = 8, inputs(tokens)
    p = (0.7 * q @ k.t()).softmax(1)
    found = mass.measure(q, k, 0.7, block)
    tiles = [list(row.split(block, dim=1)) for row in p.split(block)]
    assert_close(found.mass, torch.stack([torch.stack([tile.sum() for tile in row]) for row in tiles]))
    assert_close(found.evenness, torch.stack([torch.stack([tile.mean() / tile.max() for tile in row]) for row in tiles]))
    assert_close(found.mass.sum(), torch.tensor(float(tokens)))


def test_long_sequences_are_sampled_and_the_mass_still_sums_to_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mass, "EXACT_TOKENS", 8)
    assert mass.stride(35, 16) == 4
    assert mass.stride(10_000, 16) == 4  # at least four queries of a block
    q, k, _ = inputs(35)
    found = mass.measure(q, k, 0.7, 16)
    assert_close(found.mass.sum(1), torch.tensor([16.0, 16.0, 3.0]))
    sampled = (0.7 * q[0:16:4] @ k.t()).softmax(1)
    assert_close(found.mass[0, 0], 4 * sampled[:, :16].sum())


def test_video_lengths_are_sampled_four_to_one() -> None:
    assert (mass.stride(4096, 64), mass.stride(8191, 64), mass.stride(17_776, 64)) == (1, 1, 4)


def test_output_error_against_the_whole_map() -> None:
    q, k, v = inputs(21)
    keep = torch.eye(3, dtype=torch.bool)
    keep[0, 2] = True
    seen = keep.repeat_interleave(8, 0).repeat_interleave(8, 1)[:21, :21]
    dense = functional.scaled_dot_product_attention(q[None], k[None], v[None], scale=0.7)[0]
    sparse = functional.scaled_dot_product_attention(q[None], k[None], v[None], seen, scale=0.7)[0]
    (lost, all_kept), whole = mass.output_errors(q, k, v, 0.7, 8, [keep, torch.ones_like(keep)])
    assert lost == pytest.approx(float((dense - sparse).square().sum()), rel=1e-4)
    assert whole == pytest.approx(float(dense.square().sum()), rel=1e-4)
    assert all_kept < 1e-8


def test_blocks_whose_probabilities_underflow_are_even_and_cause_no_nan() -> None:
    q = torch.zeros(16, 8)
    q[:, 0] = 1e3
    k = torch.zeros(16, 8)
    k[:8, 0] = 1.0
    found = mass.measure(q, k, 1.0, 8)
    assert found.mass[:, 1].tolist() == [0.0, 0.0]
    assert found.evenness.isfinite().all()
    lost, whole = mass.output_errors(q, k, torch.ones(16, 8), 1.0, 8, [torch.tensor([[True, False], [False, True]])])
    assert (lost, whole) == ([0.0], 128.0)
