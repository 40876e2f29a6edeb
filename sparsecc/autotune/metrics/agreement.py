"""Whether the answer is the same: the share of equal top-1 classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsecc.autotune.metrics.base import HeldOut, Metric, Outputs, by_item, floats
from sparsecc.errors import InputError, Refused

_NO_NUMBER = -1  # in the place of a class


class Agreement(Metric[np.ndarray]):
    """The largest entry along the last axis of the first output of floats. An item with several answers, as a label for each token, counts
    by the share of those that agree; tokens that an input `attention_mask` of [batch, tokens] leaves out are not asked."""

    def read(self, outputs: Outputs, sample: HeldOut) -> Sequence[np.ndarray]:
        array = floats(outputs)
        if array.shape[-1:] in ((), (1,)):
            raise InputError(f"the last axis of an output of shape {list(array.shape)} has no classes to choose from")
        items = by_item(array, sample)
        classes = np.where(np.isnan(items).any(-1), _NO_NUMBER, items.argmax(-1)).reshape(*items.shape[:-1], -1)
        mask = sample.mask(array.shape[:2]) if array.ndim == 3 else None
        if mask is None:
            return [item.ravel() for item in classes]
        return [item[kept].ravel() for item, kept in zip(classes, mask, strict=True) if kept.any()]

    def compare(self, dense: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([float(np.mean(a == b)) for a, b in zip(dense, other, strict=True)])

    def refuse(self, dense: Sequence[np.ndarray]) -> Refused | None:
        answers = np.unique(np.concatenate(dense))
        if len(answers) > 1:
            return None
        return Refused(
            f"the dense model answers {answers[0]} in all {len(dense)} items, as a model would that looks at nothing; add samples"
        )
