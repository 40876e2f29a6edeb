from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsecc.errors import RecipeError
from sparsecc.train.rigl import Rigl
from tests.train.views import random, view


def test_the_first_mask_is_by_magnitude_or_at_random() -> None:
    weight = random()
    largest = Rigl(steps=10).first(view(weight))
    chance = Rigl(steps=10, start="random").first(view(weight))
    assert weight.abs()[largest].min() > weight.abs()[~largest].max()
    assert int(chance.sum()) == int(largest.sum()) == weight.numel() // 2
    assert not torch.equal(chance, largest)
    assert not torch.equal(chance, Rigl(steps=10, start="random").first(view(weight, seed=1)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"share": 1.0}, r"share: 1.0 is not in \(0, 1\)"), ({"start": "randm"}, "start: no 'randm'; did you mean 'random'")],
)
def test_options_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{message}"):
        Rigl(steps=10, **fields)
