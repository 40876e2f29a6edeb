"""On how many threads generated code runs: on all that it was compiled for, or on the caller's alone where that is faster."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

from sparsecc.codegen.cpu import threads

_BRIEF_S = 1e-3  # what takes longer gains by its threads
_CALLS = 7  # to judge by, each way, after one that makes pages and pools
T = TypeVar("T")


class ThreadCount:
    """How many threads calls of one specialization use, which its first calls find out.

    Several threads cost a call 25 µs for the lent thread, and 70 for a worker that has gone to sleep: a perceptron of three small layers
    took twice as long on two threads as on the caller's. Outputs are the same either way: a parallel loop of generated code is cut into
    ranges that do not meet.
    """

    def __init__(self, most: int) -> None:
        self.chosen: int | None = 1 if most == 1 else None
        self._most = most
        self._on_all: list[float] = []
        self._alone: list[float] = []

    def run(self, work: Callable[[], T]) -> T:
        """work(). May be called from several threads at once."""
        if self.chosen is not None:
            return threads.run(self.chosen, work)
        on_all = len(self._on_all) <= _CALLS
        before = time.perf_counter()
        result = threads.run(self._most if on_all else 1, work)
        (self._on_all if on_all else self._alone).append(time.perf_counter() - before)
        self._choose()
        return result

    def _choose(self) -> None:
        if len(self._on_all) <= _CALLS:
            return
        on_all = statistics.median(self._on_all[1:])
        if on_all > _BRIEF_S:
            self.chosen = self._most
        elif len(self._alone) > _CALLS:
            self.chosen = 1 if statistics.median(self._alone[1:]) < on_all else self._most
