from __future__ import annotations

import torch

from sparsecc.criteria.random import Random


def test_the_seed_alone_decides() -> None:
    first, other = torch.zeros(64, 64), torch.randn(64, 64)
    assert torch.equal(Random().score(first, {}, 3), Random().score(other, {}, 3))
    assert not torch.equal(Random().score(first, {}, 3), Random().score(first, {}, 4))


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    Random().score(torch.zeros(8, 8), {}, 3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_uniform() -> None:
    score = Random().score(torch.zeros(512, 512), {}, 0)
    assert abs(score.mean().item() - 0.5) < 0.01
    assert 0 <= score.min() <= score.max() < 1
