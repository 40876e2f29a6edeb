"""One condition of a goal, "latency<=12ms": what it bounds, and by how much a model misses it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from sparsecc.autotune import metrics
from sparsecc.autotune.quantities import BYTES, MICROSECONDS, RATIO, Quantity, quantity
from sparsecc.errors import RecipeError

Better = Literal["higher", "lower"]
Measured = Mapping[str, float]  # key of a condition → what was measured: latency_us, bytes, cosine, perplexity, perplexity_ratio, ...
LATENCY, BYTES_KEPT, METRIC = "latency", "bytes", "metric"
LATENCY_KEY = "latency_us"
_RELATIONS: Mapping[str, Better] = {"<=": "lower", ">=": "higher"}
_LEAST_SCALE = 1e-3  # of a quality bound that is as good as perfect: what a miss is counted in then


@dataclass(frozen=True)
class Axis:
    """Something that can be optimized. key: in what was measured.  better: which way."""

    key: str
    better: Better


@dataclass(frozen=True)
class Word:
    """What a goal may bound. perfect: the best value there can be, None where there is none.  ratio: where it is bounded in parts of the
    dense model's value: always ("only"), where it is written with an x ("may"), or never.  units: of its numbers."""

    name: str
    better: Better
    perfect: float | None = None
    ratio: Literal["only", "may", "never"] = "never"
    units: Mapping[str, float] | None = None

    @property
    def is_quality(self) -> bool:
        return self.units is None


def word(name: str) -> Word:
    """What is known of a word: latency, bytes, metric, or a member of the family of metrics. Raises RecipeError as the registry does."""
    if name == LATENCY:
        return Word(name, "lower", units=MICROSECONDS)
    if name == BYTES_KEPT:
        return Word(name, "lower", units=BYTES)
    if name == METRIC:
        return Word(name, "higher", ratio="only")
    cls = metrics.load(name)
    return Word(name, cls.better, cls.perfect, "may" if cls.of_one_model else "never")


@dataclass(frozen=True)
class Miss:
    """A condition that does not hold. value: what was measured.  by: how far it is beyond the bound, in the unit of `condition.key`.
    violation: the same in parts of the bound, or of what the bound allows a quality to lose; infinite where nothing was measured."""

    condition: Condition
    value: float
    by: float
    violation: float

    def __str__(self) -> str:
        return f"{self.condition} is missed: {self.condition.shown(self.value)}"


@dataclass(frozen=True)
class Condition:
    """word: what is bounded.  better: the side on which it holds, "lower" for <=.  quantity: the bound, as written."""

    word: str
    better: Better
    quantity: Quantity

    @classmethod
    def read(cls, name: str, relation: str, bound: str) -> Condition:
        """Of its three parts as text. Raises RecipeError for a bound that is no number of the right unit."""
        known = word(name)
        if known.units is not None:
            return cls(name, _RELATIONS[relation], quantity(bound, known.units, f"goal: {name}"))
        found = quantity(bound, {RATIO: 1.0} if known.ratio != "never" else {}, f"goal: {name}", needed=False)
        return cls(name, _RELATIONS[relation], replace(found, unit="") if known.ratio == "only" else found)

    @property
    def relative(self) -> bool:
        """Whether the bound is in parts of the dense model's value."""
        return self.quantity.unit == RATIO or self.word == METRIC

    @property
    def is_quality(self) -> bool:
        return self.word not in (LATENCY, BYTES_KEPT)

    @property
    def key(self) -> str:
        """Under which the value stands among those measured."""
        if self.word == LATENCY:
            return LATENCY_KEY
        return metrics.ratio_key(self.word) if self.quantity.unit == RATIO else self.word

    @property
    def bound(self) -> float:
        """In the unit of `key`: µs, bytes, or the number of the metric."""
        return self.quantity.amount

    @property
    def axis(self) -> Axis:
        return Axis(self.key, self.better)

    def require_sense(self) -> None:
        """Raises RecipeError for a condition in the wrong direction, or one that nothing, or everything, meets."""
        known = word(self.word)
        if self.better != known.better:
            right = replace(self, better=known.better)
            raise RecipeError(f"goal: {self}: {self.word} is better when {known.better}; write {right}")
        if known.perfect is not None and not self.relative and not self.allows(known.perfect):
            raise RecipeError(f"goal: {self} cannot be met: {self.word} is {known.perfect:g} at best")
        if not self.bound and (self.relative or not self.is_quality):
            raise RecipeError(f"goal: {self} says nothing; give a number above zero")

    def allows(self, value: float) -> bool:
        return value <= self.bound if self.better == "lower" else value >= self.bound

    def miss(self, measured: Measured) -> Miss | None:
        """None where the condition holds; NaN never does. Raises KeyError where `key` was not measured."""
        value = measured[self.key]
        if self.allows(value):
            return None
        by = math.inf if math.isnan(value) else abs(value - self.bound)
        return Miss(self, value, by, self._violation(by))

    def lost(self, measured: Measured) -> float:
        """What is lost, in parts of what the bound allows a quality to lose: 1 at the bound, more where it is missed; infinite for NaN.

        Where it is not known how good a metric can be, a tenth better than the bound counts as 0.9. Raises as `miss`."""
        value = measured[self.key]
        by = value - self.bound if self.better == "lower" else self.bound - value
        return math.inf if math.isnan(value) else 1 + math.copysign(self._violation(abs(by)), by)

    def _violation(self, by: float) -> float:
        if not self.is_quality:
            return by / self.bound
        perfect = 1.0 if self.relative else word(self.word).perfect
        return by / max(abs(self.bound - perfect) if perfect is not None else abs(self.bound), _LEAST_SCALE)

    def loosened(self, value: float) -> Condition | None:
        """The same condition with the nearest bound of three digits that `value` meets. None where no number can be written: NaN,
        infinity, below zero."""
        if not math.isfinite(value) or value < 0:
            return None
        found = replace(self, quantity=self.quantity.rounded(value, up=self.better == "lower"))
        return None if not found.bound and (self.relative or not self.is_quality) else found

    def shown(self, value: float) -> str:
        """A measured value in the unit of the bound."""
        return f"{value / self.quantity.factor:.5g}{self.quantity.unit}"

    def __str__(self) -> str:
        return f"{self.word}{'<=' if self.better == 'lower' else '>='}{self.quantity}"
