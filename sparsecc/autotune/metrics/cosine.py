"""The mean cosine of outputs to the dense model's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsecc.autotune.metrics._vectors import cosine, vectors
from sparsecc.autotune.metrics.base import HeldOut, Metric, Outputs


class Cosine(Metric[np.ndarray]):
    """Of the first output of floats, flattened for each item. Where it is [batch, tokens, width] and the model has an input
    `attention_mask` of [batch, tokens], the vectors are means over the tokens that the mask keeps, as sentence encoders pool them."""

    def read(self, outputs: Outputs, sample: HeldOut) -> Sequence[np.ndarray]:
        return vectors(outputs, sample)

    def compare(self, dense: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([cosine(a, b) for a, b in zip(dense, other, strict=True)])
