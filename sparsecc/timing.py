"""Timing several callables fairly: in turns within one process, so that a busy machine slows all of them alike.

Round after round, every callable gets a turn (A B C, B C A, C A B, ...: whoever follows whom changes). A turn is `settle`
untimed calls, which take back the caches and let the previous one's spinning threads go to sleep, then `burst` timed ones.
Times are compared per round, so that a ratio is between measurements that lie milliseconds apart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

Progress = Callable[[float], None]
_LOOKS, _ALIKE = 4, 0.015  # comparisons at most, and how near two are that are alike, as a logarithm


@dataclass(frozen=True)
class Spread:
    """Median with the 10th and 90th percentile."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        p10, median, p90 = np.percentile(values, [10, 50, 90])
        return cls(float(median), float(p10), float(p90))

    def to_dict(self) -> dict[str, float]:
        return {"median": self.median, "p10": self.p10, "p90": self.p90}


@dataclass(frozen=True)
class Timing:
    """seconds: one number per round, the median of that round's burst."""

    name: str
    seconds: tuple[float, ...]

    @property
    def spread_ms(self) -> Spread:
        return Spread.of([1e3 * s for s in self.seconds])

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "rounds": len(self.seconds), "ms": self.spread_ms.to_dict()}


def interleave(
    callables: Mapping[str, Callable[[], Any]],
    *,
    seconds: float = 10.0,
    rounds: int = 200,
    settle: int = 1,
    burst: int = 3,
    progress: Progress | None = None,
) -> dict[str, Timing]:
    """Time every callable in turns until `rounds` rounds are done or `seconds` have passed, whichever comes first; at least 3 rounds.

    progress: called after each round with the share done, in (0, 1].
    An exception of a callable is passed on with a note of whose it was.
    """
    if not callables:
        raise ValueError("interleave: nothing to time")
    names = list(callables)
    taken: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    for i in range(max(3, rounds)):
        for name in _rotated(names, i):
            taken[name].append(_turn(name, callables[name], settle, burst))
        share = max((i + 1) / max(3, rounds), (time.perf_counter() - start) / seconds)
        if progress:
            progress(min(1.0, share))
        if i >= 2 and share >= 1:
            break
    return {name: Timing(name, tuple(times)) for name, times in taken.items()}


def speedup(of: Timing, over: Timing) -> Spread:
    """How many times faster `of` is than `over`: the round-by-round ratio of times. Both from one `interleave`."""
    if len(of.seconds) != len(over.seconds):
        raise ValueError(f"speedup: {of.name} and {over.name} were not timed in the same run")
    return Spread.of([b / a for a, b in zip(of.seconds, over.seconds, strict=True)])


def settled(fast: Callable[[], Any], slow: Callable[[], Any], *, seconds: float, rounds: int) -> float:
    """How many times as fast the first is, by the lower quartiles of their times: what disturbs a machine makes calls longer, not shorter.

    Both are timed in turns, half of `seconds` and of `rounds` at a time, until two such comparisons are alike, four times at most; the
    answer is that of the two that are nearest to each other.
    """
    calls, found = {"slow": slow, "fast": fast}, list[float]()
    for _ in range(_LOOKS):
        timings = interleave(calls, seconds=seconds / 2, rounds=rounds // 2)
        other, one = (float(np.quantile(timings[name].seconds, 0.25)) for name in calls)
        found.append(other / one)
        if any(_apart(found[-1], earlier) < _ALIKE for earlier in found[:-1]):
            break
    first, second = min(combinations(found, 2), key=lambda pair: _apart(*pair))
    return math.sqrt(first * second)


def _apart(one: float, other: float) -> float:
    return abs(math.log(one / other))


def _turn(name: str, call: Callable[[], Any], settle: int, burst: int) -> float:
    try:
        for _ in range(settle):
            call()
        times: list[float] = []
        for _ in range(burst):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    except Exception as error:
        error.add_note(f"while timing {name!r}")
        raise
    return float(np.median(times))


def _rotated(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]
