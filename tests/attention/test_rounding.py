from __future__ import annotations

import pytest
import torch

from sparsecc.attention.rounding import LEVELS, rounded_tokens, rounded_values

X = torch.randn(2, 11, 6, generator=torch.Generator().manual_seed(0))
PLACES = torch.randperm(11, generator=torch.Generator().manual_seed(1))
BLOCK = 4


def test_int8_has_one_scale_for_each_block_of_the_order() -> None:
    rounded = rounded_tokens(X, PLACES, BLOCK, "int8")
    for start in range(0, 11, BLOCK):
        tokens = PLACES[start : start + BLOCK]
        for one, other in zip(X[:, tokens], rounded[:, tokens], strict=True):
            step = float(one.abs().max()) / LEVELS
            levels = other / step
            assert torch.allclose(levels, levels.round(), atol=1e-4)
            assert int(levels.abs().max().round()) == LEVELS
            assert (one - other).abs().max() <= step * 0.501


def test_a_block_of_zeros_stays_zero_and_nan_stays_in_its_block() -> None:
    x = X.clone()
    x[:, PLACES[:BLOCK]] = 0
    x[0, PLACES[BLOCK], 2] = torch.nan
    rounded = rounded_tokens(x, PLACES, BLOCK, "int8")
    assert (rounded[:, PLACES[:BLOCK]] == 0).all()
    assert rounded[0, PLACES[BLOCK : 2 * BLOCK]].isnan().all()
    assert rounded[1].isfinite().all()


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_values_are_bfloat16(precision: str) -> None:
    assert torch.equal(rounded_values(X, precision), X.bfloat16().float())


def test_bfloat16_and_float32_know_no_blocks() -> None:
    assert torch.equal(rounded_tokens(X, PLACES, BLOCK, "bfloat16"), X.bfloat16().float())
    assert rounded_tokens(X, PLACES, BLOCK, "float32") is X
    assert rounded_values(X, "float32") is X
