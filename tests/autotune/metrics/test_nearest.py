from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

from sparsecc.autotune.metrics.nearest import Nearest
from tests.autotune.metrics.outputs import measured

GENERATOR = np.random.default_rng(2)


def neighbours(vectors: np.ndarray) -> np.ndarray:
    found = NearestNeighbors(n_neighbors=2, metric="cosine").fit(vectors).kneighbors(vectors, return_distance=False)
    return found[:, 1]


def test_what_scikit_learn_says() -> None:
    dense = GENERATOR.normal(0, 1, (40, 6))
    other = dense + GENERATOR.normal(0, 0.3, (40, 6))
    expected = np.mean(neighbours(dense) == neighbours(other))
    assert 0.2 < expected < 0.9
    assert measured(Nearest(), dense, other).value == expected


def test_either_of_two_equally_near_items_is_right() -> None:
    dense = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.1], [0.0, 1.0]])
    first, second = dense.copy(), dense.copy()
    first[1, 1], second[2, 1] = 0.09, 0.09  # nearer to the first item than the other
    assert measured(Nearest(), dense, first).value == measured(Nearest(), dense, second).value == 1


def test_a_vector_that_is_not_finite_has_no_neighbour() -> None:
    dense = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    other = dense.copy()
    other[1] = np.nan
    assert measured(Nearest(), dense, other).value == 0.5  # it has none, and the first item lost its own


def test_two_items_are_each_others_nearest_anyway() -> None:
    refused = Nearest().refuse(list(np.eye(2)))
    assert refused is not None and "needs 3" in refused.reason
