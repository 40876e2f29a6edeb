from __future__ import annotations

from sparsecc.allocations.uniform import Uniform
from tests.allocations.layers import LAYERS


def test_the_same_everywhere() -> None:
    assert Uniform().allocate(LAYERS, 0.7, 0.0) == [0.7] * len(LAYERS)
