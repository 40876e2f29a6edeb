"""What a metric is: it reads the outputs for one sample, keeps what it needs of them, and makes a number of all samples. It knows no model.

Samples may be batches. An item is one entry of a batch; values are means over items, so that it does not matter how they were batched.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np

from sparsecc.calibration.references import REFERENCE, items_of
from sparsecc.errors import InputError, Refused

R = TypeVar("R")  # what a metric keeps of an item
Outputs = Sequence[np.ndarray]  # of one sample, flat, in the model's order
MASK = "attention_mask"  # the input that says which tokens are no padding
_HALVES = 32  # random halves by which the standard error is estimated
_LARGEST_HALF = 512  # items in one of them


@dataclass(frozen=True)
class HeldOut:
    """A sample that a model is judged by. inputs: by name.  references: right answers, by name; their first axis counts items."""

    inputs: Mapping[str, np.ndarray]
    references: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    @property
    def items(self) -> int:
        return items_of(next(iter(self.inputs.values())).shape) if self.inputs else 1

    def mask(self, shape: Sequence[int]) -> np.ndarray | None:
        """bool[batch, tokens]: which tokens are no padding, by the input `attention_mask`; None where there is none of this shape."""
        mask = self.inputs.get(MASK)
        return None if mask is None or mask.shape != tuple(shape) else mask != 0

    def reference(self, name: str, why: str) -> np.ndarray:
        """Raises InputError where there is none of that name."""
        if name not in self.references:
            raise InputError(f"{why}; add an array {REFERENCE + name!r} to the samples")
        return self.references[name]


@dataclass(frozen=True)
class Value:
    """value: over all items.  spread: its standard error, None where there are too few items to tell.  dense: the dense model's own value,
    of metrics that say something of one model alone."""

    value: float
    spread: float | None = None
    dense: float | None = None

    @property
    def ratio(self) -> float | None:
        """In parts of the dense model's, which is above zero."""
        return None if not self.dense else self.value / self.dense


class Metric(ABC, Generic[R]):
    """One member of the family. Pure, and without options.

    better: which values are better.  perfect: the value of a model that answers as the dense one does, or makes no mistakes.
    of_one_model: whether it judges answers by the samples or their references, so that the dense model has a value of its own, and goals
    may be relative to it; other metrics compare answers with the dense model's.  least_items: without which there is no value.
    """

    better: ClassVar[Literal["higher", "lower"]] = "higher"
    perfect: ClassVar[float] = 1.0
    of_one_model: ClassVar[bool] = False
    least_items: ClassVar[int] = 1
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)  # options that the laws try

    @abstractmethod
    def read(self, outputs: Outputs, sample: HeldOut) -> Sequence[R]:
        """What is kept of each item. Raises InputError for outputs that it cannot judge, or where a reference is missing."""

    @abstractmethod
    def compare(self, dense: Sequence[R], other: Sequence[R]) -> np.ndarray:
        """float64[items, ...]: of each item what `value` needs of it. Outputs of `other` that are not finite count as wrong."""

    def value(self, rows: np.ndarray) -> float:
        """One number for some of the rows that `compare` gives: their mean, if nothing else is said."""
        return float(rows.mean())

    def refuse(self, dense: Sequence[R]) -> Refused | None:
        """Why these items cannot tell models apart, by what the dense model answers."""
        return None

    def spread(self, rows: np.ndarray, seed: int = 0) -> float | None:
        """The standard error of `value`, by the variance of values of random halves, scaled: the delete-d jackknife (Shao and Wu, A General
        Theory for Jackknife Variance Estimation, 1989). A bootstrap would draw items twice, which are then their own nearest neighbours."""
        count = len(rows)
        half = min(count // 2, _LARGEST_HALF)
        if half < self.least_items:
            return None
        generator = np.random.default_rng(seed)
        values = [self.value(rows[np.sort(generator.permutation(count)[:half])]) for _ in range(_HALVES)]
        return float(np.std(values)) * math.sqrt(half / (count - half)) if all(map(math.isfinite, values)) else None


def judged(metric: Metric[R], dense: Sequence[R], other: Sequence[R], seed: int = 0) -> Value:
    """The value for the items of another model, given those of the dense one, both as `read` gives them."""
    rows = metric.compare(dense, other)
    own = metric.value(metric.compare(dense, dense)) if metric.of_one_model else None
    return Value(metric.value(rows), metric.spread(rows, seed), own)


def read_all(metric: Metric[R], outputs: Iterable[Outputs], held: Iterable[HeldOut]) -> list[R]:
    """What a metric keeps of all samples. Raises as `read` does, and InputError for no samples."""
    found = [item for each, sample in zip(outputs, held, strict=True) for item in metric.read(each, sample)]
    if not found:
        raise InputError("no samples to judge by")
    return found


def floats(outputs: Outputs) -> np.ndarray:
    """The first output of floats. Raises InputError where there is none."""
    found = next((array for array in outputs if is_float(array)), None)
    if found is None:
        raise InputError("no output of the model holds floats")
    return found


def is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"  # which numpy counts among types of its own


def by_item(array: np.ndarray, sample: HeldOut) -> np.ndarray:
    """[items, ...]: along the batch axis where there is one; otherwise all of it is one item's."""
    return array if array.ndim and len(array) == sample.items else array[None]
