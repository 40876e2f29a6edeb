from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from sparsecc.autotune.metrics.spearman import Spearman, ranks
from tests.autotune.metrics.outputs import measured

GENERATOR = np.random.default_rng(1)


def similarities(vectors: np.ndarray) -> np.ndarray:
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (units @ units.T)[np.triu_indices(len(units), 1)]


def test_what_scipy_says() -> None:
    dense = GENERATOR.normal(0, 1, (9, 5))
    other = dense + GENERATOR.normal(0, 0.5, (9, 5))
    expected = spearmanr(similarities(dense), similarities(other))[0]
    assert measured(Spearman(), dense, other).value == pytest.approx(expected, abs=1e-12)


def test_lengths_of_vectors_do_not_matter() -> None:
    dense = GENERATOR.normal(0, 1, (6, 5))
    assert measured(Spearman(), dense, dense * np.arange(1, 7)[:, None]).value == pytest.approx(1)


def test_ranks_with_ties() -> None:
    values = np.array([3.0, 1.0, 3.0, 2.0, 3.0, 1.0])
    assert np.array_equal(ranks(values), rankdata(values))


def test_a_model_that_finds_all_alike_ranks_nothing() -> None:
    dense = GENERATOR.normal(0, 1, (6, 5))
    assert measured(Spearman(), dense, np.ones((6, 5))).value == 0


@pytest.mark.parametrize(
    ("dense", "reason"),
    [
        (np.ones((2, 4)), "needs 3 of them at least, not 2"),
        (np.ones((5, 4)), r"every two of the 5 items are equally similar in the dense model \(1\.0000\)"),
        (np.eye(4), r"equally similar in the dense model \(0\.0000\)"),
    ],
)
def test_samples_that_cannot_tell(dense: np.ndarray, reason: str) -> None:
    refused = Spearman().refuse(list(dense))
    assert refused is not None and re.search(reason, refused.reason)


def test_items_of_different_sizes() -> None:
    refused = Spearman().refuse([np.ones(4), np.ones(5), np.ones(4)])
    assert refused is not None and "different sizes" in refused.reason
