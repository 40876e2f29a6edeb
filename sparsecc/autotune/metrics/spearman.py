"""Whether items are as similar to each other as in the dense model: the rank correlation of all pairwise similarities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsecc.autotune.metrics._vectors import pairs, refuse_alike, together, vectors
from sparsecc.autotune.metrics.base import HeldOut, Metric, Outputs
from sparsecc.errors import Refused


class Spearman(Metric[np.ndarray]):
    """Spearman's correlation of the cosine similarities of every two items, the dense model's with the other's. Vectors are those of
    `cosine`; equal similarities share their mean rank."""

    least_items = 3

    def read(self, outputs: Outputs, sample: HeldOut) -> Sequence[np.ndarray]:
        return vectors(outputs, sample)

    def compare(self, dense: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
        return together(dense, other)

    def value(self, rows: np.ndarray) -> float:
        """0 where one of the two finds all items equally similar, and so ranks nothing."""
        dense, other = (ranks(pairs(rows[:, model])) for model in (0, 1))
        if not np.ptp(dense) or not np.ptp(other):
            return float(np.array_equal(dense, other))
        a, b = dense - dense.mean(), other - other.mean()
        return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))

    def refuse(self, dense: Sequence[np.ndarray]) -> Refused | None:
        return refuse_alike(dense, self.least_items)


def ranks(values: np.ndarray) -> np.ndarray:
    """float64: 1 for the smallest; equal values share the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[places]
