from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import distance

from sparsecc.autotune.metrics.base import HeldOut
from sparsecc.autotune.metrics.cosine import Cosine
from tests.autotune.metrics.outputs import measured

GENERATOR = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.normal(0, 1, shape).astype(np.float32)


def test_the_mean_over_items_of_what_scipy_says() -> None:
    dense, other = normal(5, 3, 4), normal(5, 3, 4)
    expected = [1 - distance.cosine(a.ravel(), b.ravel()) for a, b in zip(dense, other, strict=True)]
    value = measured(Cosine(), dense, other)
    assert value.value == pytest.approx(np.mean(expected), abs=1e-6)


def test_tokens_are_pooled_under_an_attention_mask() -> None:
    dense, other = normal(2, 4, 3), normal(2, 4, 3)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])
    sample = HeldOut({"input_ids": mask, "attention_mask": mask})
    pooled = [(a[:count].mean(0), b[:count].mean(0)) for a, b, count in zip(dense, other, (2, 4), strict=True)]
    expected = np.mean([1 - distance.cosine(a, b) for a, b in pooled])
    assert measured(Cosine(), dense, other, sample).value == pytest.approx(expected, abs=1e-6)
    padding = dense.copy()
    padding[0, 2:] = 99
    assert measured(Cosine(), dense, padding, sample).value == pytest.approx(1)


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 4), (4, 4)])
def test_a_mask_of_another_shape_pools_nothing(shape: tuple[int, ...]) -> None:
    dense, other = normal(2, 4, 3), normal(2, 4, 3)
    sample = HeldOut({"x": normal(2, 9), "attention_mask": np.ones(shape)})
    assert measured(Cosine(), dense, other, sample).value == pytest.approx(measured(Cosine(), dense, other).value)


def test_an_output_without_a_batch_is_one_item() -> None:
    sample = HeldOut({"x": normal(2, 9)})
    dense, other = normal(7), normal(7)
    assert measured(Cosine(), dense, other, sample).value == pytest.approx(1 - distance.cosine(dense, other), abs=1e-6)


def test_numbers_of_any_size_and_type() -> None:
    dense = normal(3, 4).astype(np.float64)
    other = normal(3, 4).astype(np.float64)
    expected = measured(Cosine(), dense, other).value
    assert measured(Cosine(), 1e300 * dense, 1e-300 * other).value == pytest.approx(expected)
    import ml_dtypes

    narrow = measured(Cosine(), dense.astype(ml_dtypes.bfloat16), dense).value
    assert 0.999 < narrow < 1


def test_zeros_and_what_is_not_finite() -> None:
    dense = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, -np.inf]])
    other = np.array([[0.0, 0.0], [np.nan, 0.0], [2.0, 3.0]])  # alike, wrong, alike where the dense one has numbers
    assert measured(Cosine(), dense, other).value == pytest.approx(2 / 3)
    assert measured(Cosine(), dense[:1], other[1:2] * 0 + 1).value == 0
