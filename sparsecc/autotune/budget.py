"""The minutes of a search: what may still be begun, so that it ends in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shares:
    """Of the time: after so much no further rung is timed, no further losses are measured, and no further model is tried as it is. Where
    timing took longer, a quarter of what is left is for losses."""

    timing: float
    losses: float
    tries: float


ALONE = Shares(0.35, 0.55, 1.0)
WITH_RECOVERY = Shares(0.15, 0.25, 0.35)  # a recovered model gains more than further ones as they are
TRY, RECOVERY = "try", "recovery"
_SLACK = 1.3  # something is begun where the longest of its kind so far, and so much more, fits into the time left


class OutOfTime(Exception):
    """The time of the search is over, and what was under way has stopped."""


@dataclass
class Budget:
    """minutes: of the search.  clock: in seconds, from any beginning.  lasted: the longest of each kind of work so far, in seconds."""

    minutes: float
    clock: Callable[[], float] = time.monotonic
    lasted: dict[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        self._started = self.clock()

    @property
    def seconds(self) -> float:
        """That have gone by."""
        return self.clock() - self._started

    @property
    def left(self) -> float:
        """Seconds in which something may be done: at the end the chosen model is compiled once more, which takes no longer than a try."""
        return 60 * self.minutes - self.seconds - self.lasted.get(TRY, 0.0)

    def until(self, share: float, of_left: float = 0.0) -> float:
        """When this share of the time has gone by, on the clock; no sooner than after a part of what is left now."""
        return max(self._started + 60 * self.minutes * share, self.clock() + of_left * max(self.left, 0.0))

    def may(self, what: str, share: float = 1.0) -> bool:
        """Whether one more piece of this kind of work fits into a share of the time. The first of its kind does until it is over."""
        longest = _SLACK * self.lasted.get(what, 0.0)
        return longest < self.left and self.clock() + longest < self.until(share)

    def require(self, seconds: float) -> None:
        """Raises OutOfTime where so many are not left."""
        if self.left < seconds:
            raise OutOfTime

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Notes how long a piece of work lasts, unless it is broken off."""
        begun = self.clock()
        yield
        self.lasted[what] = max(self.lasted.get(what, 0.0), self.clock() - begun)
