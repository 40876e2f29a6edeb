from __future__ import annotations

import torch

from sparsecc.train.set_ import Set
from tests.train.views import random, view


def test_a_constant_share_of_the_smallest_is_exchanged_at_random() -> None:
    weight, method = random(), Set(steps=100, share=0.25, sparsity=0.5)
    keep = method.first(view(weight))
    for step in (10, 75):
        after = [method.change(view(weight * keep, keep, seed=seed), step) for seed in (1, 2)]
        assert not torch.equal(*after)
        for mask in after:
            smallest = weight.abs()[keep].sort().values[int(keep.sum()) // 4]
            assert int(mask.sum()) == int(keep.sum())
            assert (weight.abs()[keep & ~mask] < smallest).all()
            assert int((mask & ~keep).sum()) > int(keep.sum()) // 16  # some of the new ones are the old ones
