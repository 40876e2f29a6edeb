from __future__ import annotations

import torch
from torch import nn

from models._random import randomize, token_ids


def network() -> nn.Module:
    return nn.Sequential(nn.Embedding(50, 64), nn.LayerNorm(64), nn.Linear(64, 256), nn.Linear(256, 64))


def test_same_seed_same_weights_other_seed_others() -> None:
    first, again, other = (randomize(network(), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not any(torch.equal(first[k], other[k]) for k in first)


def test_activations_keep_their_scale() -> None:
    module = nn.Sequential(*[nn.Linear(256, 256) for _ in range(12)])
    y = randomize(module)(torch.randn(64, 256, generator=torch.Generator().manual_seed(0)))
    assert 0.3 < float(y.std()) < 10


def test_module_is_frozen_in_eval_mode() -> None:
    module = randomize(network())
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())


def test_token_ids_stay_inside_the_vocabulary() -> None:
    ids = token_ids(2, 500, vocabulary=7)
    assert ids.shape == (2, 500) and ids.dtype == torch.int64
    assert sorted(set(ids.flatten().tolist())) == list(range(7))
