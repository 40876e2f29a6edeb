from __future__ import annotations

import numpy as np
import pytest

from tests.graph.onnx.contrib.apart import check, floats, integers

TABLES = {"c": floats(32, 4), "s": floats(32, 4)}


@pytest.mark.parametrize("interleaved", [0, 1])
def test_positions_turn_features(interleaved: int) -> None:
    each = integers(2, 5, high=9, dtype=np.int64)
    check("RotaryEmbedding", "x p c s", {"x": floats(2, 5, 16), "p": each}, TABLES, interleaved=interleaved)
    check("RotaryEmbedding", "x p c s", {"x": floats(2, 2, 5, 8), "p": np.array([3])}, TABLES, interleaved=interleaved)


def test_a_part_of_the_features() -> None:
    feeds = {"x": floats(2, 5, 24), "p": integers(2, 5, high=9, dtype=np.int64)}
    check("RotaryEmbedding", "x p c s", feeds, TABLES, num_heads=2, rotary_embedding_dim=8)
