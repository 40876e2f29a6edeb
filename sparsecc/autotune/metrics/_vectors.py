"""Outputs as one vector for each item, and similarities of vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsecc.autotune.metrics.base import HeldOut, Outputs, by_item, floats
from sparsecc.errors import Refused

NOISE = 1e-6  # differences of similarities that float32 leaves


def vectors(outputs: Outputs, sample: HeldOut) -> list[np.ndarray]:
    """float64[width] of each item: the first output of floats, flattened.

    Where it is [batch, tokens, width] and the model has an input `attention_mask` of [batch, tokens], it is a sentence encoder's: the mean
    over the tokens that the mask does not leave out.
    """
    array = floats(outputs)
    mask = sample.mask(array.shape[:2]) if array.ndim == 3 else None
    if mask is None:
        return [item.astype(np.float64).ravel() for item in by_item(array, sample)]
    return [
        item[kept].astype(np.float64).mean(0) if kept.any() else np.zeros(array.shape[2]) for item, kept in zip(array, mask, strict=True)
    ]


def cosine(dense: np.ndarray, other: np.ndarray) -> float:
    """Of the entries in which `dense` is finite; 0 where `other` is not, or has another size. Two vectors of zeros are alike."""
    if dense.shape != other.shape:
        return 0.0
    finite = np.isfinite(dense)
    a, b = dense[finite], other[finite]
    if not np.isfinite(b).all():
        return 0.0
    a, b = (x / scale if (scale := np.abs(x).max(initial=0.0)) else x for x in (a, b))  # squares neither overflow nor vanish
    powers = float(a @ a) * float(b @ b)
    return float(np.clip(float(a @ b) / np.sqrt(powers), -1, 1)) if powers else float(not a.any() and not b.any())


def together(dense: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
    """float64[items, 2, width]: both models' vectors, of unit length; zeros where one is not finite."""
    return np.stack([np.stack([unit(a), unit(b)]) for a, b in zip(dense, other, strict=True)])


def unit(vector: np.ndarray) -> np.ndarray:
    """Of length 1; zeros for one that is not finite, or is zero."""
    largest = np.abs(vector).max(initial=0.0)
    if not largest or not np.isfinite(largest):
        return np.zeros_like(vector)
    scaled = vector / largest
    return scaled / np.sqrt(scaled @ scaled)


def refuse_alike(dense: Sequence[np.ndarray], least: int) -> Refused | None:
    """Why similarities between items say nothing: too few items, of different sizes, or all equally similar."""
    if len(dense) < least:
        return Refused(f"compares items with each other, and needs {least} of them at least, not {len(dense)}")
    if len({vector.shape for vector in dense}) > 1:
        return Refused("compares items with each other, and their outputs have different sizes")
    similar = pairs(np.stack([unit(vector) for vector in dense]))
    if np.ptp(similar) < NOISE:
        return Refused(
            f"every two of the {len(dense)} items are equally similar in the dense model ({similar[0]:.4f}); give samples that differ"
        )
    return None


def pairs(units: np.ndarray) -> np.ndarray:
    """float64[items · (items − 1) / 2]: similarities of every two items. units: [items, width]."""
    first, second = np.triu_indices(len(units), 1)
    return (units @ units.T)[first, second]
