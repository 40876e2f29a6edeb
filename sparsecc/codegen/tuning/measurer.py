"""What the tuner asks for, and who measures it: one after the other in this process's worker, or several at once on a fleet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.target import Target
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.measure import Reply, Request, Way
from sparsecc.codegen.tuning.records import Outcome
from sparsecc.codegen.tuning.text import text
from sparsecc.timing import Spread


class Reference(NamedTuple):
    """A way to compute the same, and its recorded µs."""

    task: Task
    knobs: Knobs
    us: float


@dataclass(frozen=True)
class Job:
    """A candidate to measure. matrix: the weight, as .npy."""

    task: Task
    knobs: Knobs
    matrix: Path | None = None
    reference: Reference | None = None

    def request(self, target: Target, limit_s: float) -> Request:
        """limit_s: for building and timing."""
        reference = self.reference
        against = Way(reference.task, text(reference.knobs)) if reference else None
        path = str(self.matrix) if self.matrix else None
        return Request(target.backend, text(target), path, Way(self.task, text(self.knobs)), against, limit_s)

    def outcome(self, reply: Reply) -> Outcome:
        """Next to a reference the µs are its recorded ones times the ratio of the times taken in turns, which a busy machine leaves as it
        is, and another machine with the same CPU, too."""
        if reply.failure is not None:
            return Outcome(None, reply.failure)
        if self.reference is None:
            return Outcome(Spread.of([1e6 * s for s in reply.seconds]))
        us = self.reference.us
        return Outcome(Spread.of([us * a / b for a, b in zip(reply.seconds, reply.reference_seconds, strict=True)]))


class Measurer(ABC):
    """Takes jobs, and gives their outcomes in the order in which they are ready."""

    @property
    @abstractmethod
    def room(self) -> int:
        """How many jobs may be under way at once, at least one; it changes with the machines that come and go."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Put it under way."""

    @abstractmethod
    def finished(self) -> tuple[Job, Outcome] | None:
        """Wait for the next outcome of what is under way, which is something. None when there is more room first.

        Raises SparseccError when nothing can be measured any more."""


class InTurn(Measurer):
    """One at a time, on this machine."""

    def __init__(self, measure: Callable[[Job], Outcome]) -> None:
        self._measure = measure
        self._jobs: deque[Job] = deque()

    @property
    def room(self) -> int:
        return 1

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def finished(self) -> tuple[Job, Outcome]:
        job = self._jobs.popleft()
        return job, self._measure(job)
