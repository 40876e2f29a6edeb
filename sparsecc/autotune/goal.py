"""What a search is to reach: "latency<=12ms,cosine>=0.99"."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparsecc.autotune import metrics
from sparsecc.autotune.condition import BYTES_KEPT, LATENCY, LATENCY_KEY, METRIC, Axis, Condition, Measured, Miss, word
from sparsecc.autotune.quantities import RATIO, Quantity
from sparsecc.errors import RecipeError
from sparsecc.options import shown
from sparsecc.registry import did_you_mean

PARETO = "pareto"
_FIRST = "cosine"  # the metric that is maximized where a goal names none
_CONDITION = re.compile(r"(\w+)\s*(<=|>=)\s*(.*)")
_HOW = "write conditions as latency<=12ms or cosine>=0.99, joined by commas, or pareto"


@dataclass(frozen=True)
class Goal:
    """Conditions that a model has to meet, and what is optimized among those that do.

    conditions: each about another word: `latency` (of one call), `bytes` (of all stored weights, as the report counts them), a metric of
    `autotune.metrics` (`cosine>=0.99`), absolute or, for metrics that the dense model has a value of its own in, relative to that value
    (`perplexity<=1.02x`), or `metric`, the user's function, always relative to the dense model (`metric>=0.99`).
    pareto: ask for the whole front of latency against quality, among the models that meet the conditions.
    metric: what is meant by the word `metric`, and optimized where it is not bounded: the name of a metric, or the user's function,
    "module:function" or a callable. None: the first metric that is bounded, or cosine.
    """

    conditions: tuple[Condition, ...] = ()
    pareto: bool = False
    metric: str | Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        """Raises RecipeError for a goal that asks for nothing, for one thing twice, or for what cannot be."""
        if isinstance(self.metric, str) and ":" not in self.metric:
            metrics.load(self.metric)
        if not self.conditions and not self.pareto:
            raise RecipeError(f"goal: asks for nothing; {_HOW}")
        _reject_repeated(self.conditions)
        for condition in self.conditions:
            condition.require_sense()
            if condition.word == METRIC and self.function is None:
                known = ", ".join(metrics.names())
                raise RecipeError(f"goal: {condition} needs a metric; name a function as module:function, or one of: {known}")

    @classmethod
    def parse(cls, goal: str | Sequence[str] | Mapping[str, Any] | Goal, metric: str | Callable[..., Any] | None = None) -> Goal:
        """From text, a sequence of conditions as text, or a mapping of words to bounds: {"latency": "12ms", "cosine": 0.99} or
        {"pareto": True}.

        Raises RecipeError, in one line that begins with "goal", for an unknown word or unit, a bound that is no number, a condition that
        stands twice, is impossible or in the wrong direction, and for `metric` where there is none.
        """
        if isinstance(goal, Goal):
            return goal if metric is None else replace(goal, metric=metric)
        parts = [part.strip() for part in _parts(goal)]
        if parts.count(PARETO) > 1:
            raise RecipeError("goal: pareto stands twice")
        conditions = tuple(_condition(part, metric) for part in parts if part != PARETO)
        return cls(conditions, PARETO in parts, metric)

    @property
    def function(self) -> str | Callable[..., Any] | None:
        """The user's function, None where the metric is a member of the family."""
        return None if isinstance(self.metric, str) and ":" not in self.metric else self.metric

    @property
    def quality(self) -> str:
        """The word of the metric that is optimized, or set against latency: `metric`'s, else the first that is bounded, else cosine."""
        if self.function is not None:
            return METRIC
        return str(self.metric) if self.metric is not None else next((condition.word for condition in self._qualities), _FIRST)

    @property
    def qualities(self) -> tuple[str, ...]:
        """Words of all metrics that have to be measured, each once."""
        return tuple(dict.fromkeys([self.quality, *(condition.word for condition in self._qualities)]))

    @property
    def _qualities(self) -> list[Condition]:
        return [condition for condition in self.conditions if condition.is_quality]

    @property
    def objective(self) -> tuple[Axis, ...]:
        """What is optimized among the models that meet the conditions: what is not bounded.

        With latency or bytes bounded, and not `quality`, quality is maximized. Otherwise latency is minimized, also below a bound of its
        own. `pareto` has two axes, latency and quality.
        """
        latency, bounded = Axis(LATENCY_KEY, "lower"), any(condition.word == self.quality for condition in self._qualities)
        if self.pareto:
            return latency, self.quality_axis
        return (self.quality_axis,) if not bounded and len(self._qualities) < len(self.conditions) else (latency,)

    @property
    def quality_axis(self) -> Axis:
        """Of `quality`: as it is bounded, where it is."""
        bounded = next((condition.axis for condition in self._qualities if condition.word == self.quality), None)
        return bounded or Axis(self.quality, word(self.quality).better)

    def front(self, models: Iterable[tuple[float, Measured]]) -> list[int]:
        """Numbers of the models, the fastest first, that meet the goal and that none beats in both time and `quality`. models: milliseconds
        and what was measured. One whose quality was not measured is not on the front."""
        axis, found = self.quality_axis, list[int]()
        sign, best = (-1 if axis.better == "lower" else 1), -math.inf
        for number, (_, measured) in sorted(enumerate(models), key=lambda one: one[1][0]):
            value = sign * measured.get(axis.key, math.nan)
            if value > best and self.met(measured):
                found.append(number)
                best = value
        return found

    def met(self, measured: Measured) -> bool:
        """Raises KeyError, as the methods below, where something that is bounded was not measured."""
        return not self.misses(measured)

    def lost(self, measured: Measured) -> float:
        """Of the condition on quality that has least to spare, `Condition.lost`; 0 without any."""
        return max((condition.lost(measured) for condition in self._qualities), default=0.0)

    def levels(self, shares: Iterable[float]) -> list[Condition]:
        """Conditions that allow `quality` to lose these shares of the dense model's value, or of what is perfect where the dense model has
        none. None where that is 0, of which a share is nothing."""
        known = word(self.quality)
        scale = known.perfect if known.ratio == "never" else 1.0
        unit, sign = RATIO if known.ratio == "may" else "", 1 if known.better == "lower" else -1
        return [Condition(self.quality, known.better, Quantity(scale * (1 + sign * share), unit)) for share in shares] if scale else []

    def misses(self, measured: Measured) -> list[Miss]:
        """Conditions that do not hold, in their order. NaN meets nothing."""
        return [miss for condition in self.conditions if (miss := condition.miss(measured)) is not None]

    def violation(self, measured: Measured) -> float:
        """By how much the conditions are missed, added up, to rank models by: 0 where all hold.

        Latency and bytes count in parts of their bounds (12 % too slow is 0.12), a quality in parts of what its bound allows it to lose
        (0.98 instead of `cosine>=0.99` is 1).
        """
        return sum(miss.violation for miss in self.misses(measured))

    def loosened(self, measured: Measured) -> Goal | None:
        """The goal with each condition that is missed moved to what was measured, rounded to three digits so that it holds. None where
        that cannot be written: NaN, infinity, below zero."""
        found = [
            condition if condition.miss(measured) is None else condition.loosened(measured[condition.key]) for condition in self.conditions
        ]
        kept = tuple(condition for condition in found if condition is not None)
        return replace(self, conditions=kept) if len(kept) == len(found) else None

    def nearest(self, points: Iterable[Measured]) -> Goal | None:
        """The goal that is `loosened` for the point with the least violation; the goal itself where a point meets it, None without
        points."""
        ranked = sorted(points, key=self.violation)  # stable: of equals the first
        return next((goal for point in ranked if (goal := self.loosened(point)) is not None), None)

    def __str__(self) -> str:
        """What `parse` reads, given the same `metric`."""
        return ",".join([PARETO] * self.pareto + [str(condition) for condition in self.conditions])


def _parts(goal: Any) -> list[str]:
    """The conditions as text."""
    if isinstance(goal, str):
        return goal.split(",") if goal.strip() else []
    if isinstance(goal, Mapping):
        return [_entry(str(name), bound) for name, bound in goal.items() if bound is not False or name != PARETO]
    if isinstance(goal, Sequence) and all(isinstance(part, str) for part in goal):
        return [one for part in goal for one in part.split(",")]
    raise RecipeError(f"goal: {shown(goal)} is no goal; {_HOW}")


def _entry(name: str, bound: Any) -> str:
    """An entry of a mapping as text."""
    if name == PARETO and bound is True:
        return name
    if isinstance(bound, bool) or not isinstance(bound, str | int | float):
        raise RecipeError(f"goal: {name}: {shown(bound)} is no bound")
    return f"{name}{'<=' if _word(name).better == 'lower' else '>='}{bound}"


def _condition(part: str, metric: Any) -> Condition:
    match = _CONDITION.fullmatch(part)
    if match is None:
        raise RecipeError(f"goal: {_malformed(part)}; {_HOW}")
    name, relation, bound = match.groups()
    if name == METRIC and isinstance(metric, str) and ":" not in metric:
        name = metric
    _word(name)
    return Condition.read(name, relation, bound)


def _malformed(part: str) -> str:
    """What is wrong with text that is no condition."""
    name = re.match(r"\w*", part)
    if name is not None and name[0] and name[0] != PARETO:
        _word(name[0])
    if not part:
        return "an empty condition"
    return f"{shown(part)} takes no bound" if name is not None and name[0] == PARETO else f"{shown(part)} is no condition"


def _word(name: str) -> Any:
    """What is known of a word. Raises RecipeError with the nearest one."""
    known = [LATENCY, BYTES_KEPT, METRIC, PARETO, *metrics.names()]
    if name not in known:
        raise RecipeError(f"goal: no {shown(name)}{did_you_mean(name, known)}")
    if name == PARETO:
        raise RecipeError(f"goal: pareto takes no bound; {_HOW}")
    return word(name)


def _reject_repeated(conditions: Sequence[Condition]) -> None:
    first: dict[str, Condition] = {}
    for condition in conditions:
        earlier = first.setdefault(condition.word, condition)
        if earlier is condition:
            continue
        if earlier.better != condition.better:
            raise RecipeError(f"goal: {earlier} and {condition} contradict each other; bound {condition.word} once")
        raise RecipeError(f"goal: {condition.word} is bounded twice, by {earlier} and {condition}")
