"""Whether each item still finds the item that was nearest to it: the share of equal nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsecc.autotune.metrics._vectors import NOISE, refuse_alike, together, vectors
from sparsecc.autotune.metrics.base import HeldOut, Metric, Outputs
from sparsecc.errors import Refused


class Nearest(Metric[np.ndarray]):
    """The share of items whose most similar other item, by cosine, is the dense model's. Vectors are those of `cosine`; where several are
    equally near in the dense model, each of them is right."""

    least_items = 3

    def read(self, outputs: Outputs, sample: HeldOut) -> Sequence[np.ndarray]:
        return vectors(outputs, sample)

    def compare(self, dense: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
        both = together(dense, other)
        ours, theirs = (_without_itself(both[:, model] @ both[:, model].T) for model in (0, 1))
        found = ours[np.arange(len(ours)), theirs.argmax(1)]
        lost = both[:, 0].any(1) & ~both[:, 1].any(1)  # not finite, or zero, and so near to nothing
        return ((found >= ours.max(1) - NOISE) & ~lost).astype(np.float64)

    def refuse(self, dense: Sequence[np.ndarray]) -> Refused | None:
        return refuse_alike(dense, self.least_items)


def _without_itself(similar: np.ndarray) -> np.ndarray:
    np.fill_diagonal(similar, -np.inf)
    return similar
