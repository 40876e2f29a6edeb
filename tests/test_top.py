from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.top import keep_top

# few distinct values: ties are the point
SCORES = st.lists(st.sampled_from([-1.0, 0.0, 1.0, 2.5, float("inf"), float("-inf")]), min_size=1, max_size=40)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@given(scores=SCORES, dropped=st.integers(-2, 42))
def test_as_a_stable_sort_would(device: str, scores: list[float], dropped: int) -> None:
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: len(scores) - min(len(scores), max(0, dropped))]
    assert keep_top(torch.tensor(scores, device=device), dropped).nonzero().squeeze(1).tolist() == sorted(best)


def test_nan_is_lowest_and_half_is_taken() -> None:
    assert keep_top(torch.tensor([float("nan"), 1.0, 2.0]), 1).tolist() == [False, True, True]
    assert keep_top(torch.tensor([3.0, 1.0, 2.0], dtype=torch.bfloat16), 1).tolist() == [True, False, True]
