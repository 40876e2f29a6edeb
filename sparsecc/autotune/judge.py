"""How good a model is on held-out samples, by the metrics that a goal names."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from sparsecc.autotune import metrics
from sparsecc.autotune.condition import METRIC, Condition
from sparsecc.autotune.function import UserMetric
from sparsecc.autotune.goal import Goal
from sparsecc.autotune.losses import digest
from sparsecc.autotune.metrics.base import HeldOut, Metric, Value, by_item, judged
from sparsecc.autotune.models import Model
from sparsecc.calibration.samples import Labelled, Source, labelled_of
from sparsecc.errors import InputError
from sparsecc.graph.base import TensorSpec
from sparsecc.graph.inputs import as_array

T = TypeVar("T")
ALWAYS = "cosine"  # measured whatever the goal names
EVERY = 4  # of the samples one is held out
_DRIFT = math.sqrt(5) - 2  # by which the step is longer, so that it falls in with no period of the samples


def split(samples: Sequence[T], every: int = EVERY) -> tuple[list[T], list[T]]:
    """Samples to calibrate with, and those that are held out: about one in `every`, spread evenly, at least one of each.

    The same samples are split in the same way, without a seed: number ⌊(j + ½) · (every + √5 − 2)⌋ is held out for j = 0, 1, ... The step
    is no whole number, so that of samples in a repeating order (one of each class, again and again) all kinds are held out.
    Raises InputError for fewer than two samples, and ValueError for `every` below 2.
    """
    if every < 2:
        raise ValueError(f"every: {every} leaves nothing to calibrate with")
    count = len(samples)
    if count < 2:
        there = "there are no samples" if not count else "there is one sample"
        raise InputError(f"{there}, two are needed at least: what a model is judged by must not be what it was calibrated with")
    step = every + _DRIFT
    held = {place for j in range(count) if (place := int((j + 0.5) * step)) < count} or {count - 1}
    return [s for i, s in enumerate(samples) if i not in held], [s for i, s in enumerate(samples) if i in held]


def parted(calibration: Sequence[Labelled], held_out: Source | None, specs: Sequence[TensorSpec]) -> tuple[list[Labelled], list[Labelled]]:
    """Samples to calibrate with, and those to judge by: `split`, where none are given for this. held_out: as for `labelled_of`, for a model
    with these inputs. Raises as that does, and InputError where all that is held out is among the calibration's samples."""
    if held_out is None:
        return split(calibration)
    held = labelled_of(held_out, specs, "held_out")
    seen = {digest([one.sample]) for one in calibration}
    if all(digest([one.sample]) in seen for one in held):
        raise InputError("held_out: all its samples are among those of the calibration, which cannot judge what they made; give others")
    return list(calibration), held


@dataclass(frozen=True)
class Quality:
    """values: by metric; under `metric` the user's function, in parts of the dense model's value."""

    values: Mapping[str, Value] = field(default_factory=dict[str, Value])

    def measured(self) -> dict[str, float]:
        """By the keys of a goal's conditions: each value by the metric's name, and for those that the dense model has a value of its own
        in, also in parts of that, under NAME_ratio."""
        ratios = {metrics.ratio_key(name): value.ratio for name, value in self.values.items()}
        return {name: value.value for name, value in self.values.items()} | {key: r for key, r in ratios.items() if r is not None}


class Judge:
    """Holds the held-out samples, what the dense model answers to them, and the metrics: those that a goal names, and cosine.

    dense: the dense model's own quality.  left_out: why cosine is not measured, where it cannot be and the goal does not name it.
    noise: of the user's function, by the word `metric`, in parts of its value: models that differ by less are equal.
    """

    def __init__(self, goal: Goal, dense: Model, specs: Sequence[TensorSpec], held: Sequence[Labelled], seed: int = 0) -> None:
        """specs: the model's inputs.  held: samples that nothing was calibrated with.  seed: of the halves that spreads are made of.

        Raises InputError where there are no samples, where they or the dense model's answers to them are all the same, where a metric
        lacks references or cannot read the outputs; and what `UserMetric` raises.
        """
        if not held:
            raise InputError("no held-out samples to judge models by")
        self._seed = seed
        self._held = [_held_out(specs, one) for one in held]
        asked = _Seen()
        for sample in self._held:
            asked.add(sample.inputs.values(), sample)
        asked.reject_alike("the {} held-out items are all the same")
        self._wanted = [name for name in goal.qualities if name != METRIC]
        self._metrics: dict[str, Metric[Any]] = {name: metrics.create(name) for name in dict.fromkeys([*self._wanted, ALWAYS])}
        self.left_out: dict[str, str] = {}
        self._dense = self._first_look(dense)
        self._function = None if goal.function is None or METRIC not in goal.qualities else UserMetric(goal.function, dense)
        self.noise = {} if self._function is None else {METRIC: self._function.noise}
        own = {METRIC: Value(1.0, self._function.noise or None)} if self._function is not None else {}
        self.dense = Quality(self._judged(self._dense) | own)
        for condition in goal.conditions:
            _require_dense(condition, self.dense.values[condition.word].dense if condition.word in self._metrics else None)

    def quality(self, model: Model) -> Quality:
        """Of a model that takes and gives what the dense one does. Raises MetricError where the user's function fails, and what the model
        raises."""
        found: dict[str, list[Any]] = {name: [] for name in self._metrics}
        for outputs, sample in zip(self._answers(model), self._held, strict=True):
            for name, metric in self._metrics.items():
                found[name] += metric.read(outputs, sample)
        own = {} if self._function is None else {METRIC: self._function(model)}
        return Quality(self._judged(found) | own)

    def _first_look(self, dense: Model) -> dict[str, list[Any]]:
        """By metric, what it keeps of the dense model's answers; raises for what cannot be judged by."""
        found: dict[str, list[Any]] = {name: [] for name in self._metrics}
        answered = _Seen()
        for outputs, sample in zip(self._answers(dense), self._held, strict=True):
            answered.add(outputs, sample)
            for name, metric in list(self._metrics.items()):
                with self._or_left_out(name):
                    found[name] += metric.read(outputs, sample)
        answered.reject_alike("the dense model gives the same outputs for all {} held-out items")
        for name, metric in list(self._metrics.items()):
            refused = metric.refuse(found[name])
            if refused is not None:
                with self._or_left_out(name):
                    raise InputError(str(refused))
        return found

    @contextmanager
    def _or_left_out(self, name: str) -> Iterator[None]:
        """An InputError in here is the goal's, if it names the metric; otherwise the metric is left out."""
        try:
            yield
        except InputError as error:
            if name in self._wanted:
                raise InputError(f"goal: {name}: {error}") from None
            self.left_out[name] = str(error)
            del self._metrics[name]

    def _answers(self, model: Model) -> Iterator[list[np.ndarray]]:
        """One sample after the other: logits of all of them may be more than fits."""
        return ([np.asarray(output) for output in model.flat(list(sample.inputs.values()))] for sample in self._held)

    def _judged(self, found: Mapping[str, Sequence[Any]]) -> dict[str, Value]:
        return {name: judged(metric, self._dense[name], found[name], self._seed) for name, metric in self._metrics.items()}


def _held_out(specs: Sequence[TensorSpec], labelled: Labelled) -> HeldOut:
    inputs = {spec.name: as_array(tensor) for spec, tensor in zip(specs, labelled.sample, strict=True)}
    return HeldOut(inputs, labelled.references)


class _Seen:
    """Items, to tell whether any two differ."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()
        self._count = 0

    def add(self, arrays: Iterable[np.ndarray], sample: HeldOut) -> None:
        columns = [np.broadcast_to(column, (sample.items, *column.shape[1:])) for column in (by_item(array, sample) for array in arrays)]
        for item in range(sample.items):
            content = b"".join(np.ascontiguousarray(column[item]).tobytes() for column in columns)
            self._digests.add(hashlib.sha256(content).digest())
        self._count += sample.items

    def reject_alike(self, what: str) -> None:
        """Raises InputError where all of several items are the same. what: the error, with a place for their number."""
        if self._count > 1 and len(self._digests) == 1:
            raise InputError(f"{what.format(self._count)}, so that they cannot tell models apart; give samples that differ")


def _require_dense(condition: Condition, value: float | None) -> None:
    """Raises InputError where a bound is in parts of a dense model's value that is zero, or that value is no number at all."""
    if value is None or (math.isfinite(value) and (value > 0 or not condition.relative)):
        return
    mend = "; write a bound without x" if condition.relative and not value else ""
    raise InputError(f"goal: {condition}: {condition.word} of the dense model is {value:g}, beside which it says nothing{mend}")
