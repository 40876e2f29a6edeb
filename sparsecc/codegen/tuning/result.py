"""What tuning came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sparsecc.codegen.tuning.records import Outcome, best
from sparsecc.timing import Spread


@dataclass(frozen=True)
class TaskResult:
    """task: of `codegen.task` or `codegen.cuda.task`.  layers: of the model that may run on it.  candidates: in its space.
    trials: measured so far, failures among them.  untuned_us: of the first guess.  tuned_us, knobs: of the fastest."""

    task: Any
    layers: int
    candidates: int
    trials: int
    failures: int
    untuned_us: float | None
    tuned_us: Spread | None
    knobs: Any

    @classmethod
    def of(cls, task: Any, layers: int, space: Sequence[Any], outcomes: Mapping[Any, Outcome]) -> TaskResult:
        """What the records have of a task."""
        known = best(outcomes)
        return cls(
            task=task,
            layers=layers,
            candidates=len(space),
            trials=len(outcomes),
            failures=sum(outcome.us is None for outcome in outcomes.values()),
            untuned_us=first_guess(space, outcomes),
            tuned_us=outcomes[known.knobs].us if known else None,
            knobs=known.knobs if known else None,
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "name": str(self.task), "speedup": self.speedup}

    @property
    def speedup(self) -> float | None:
        """Of the tuned kernel over the first guess."""
        return self.untuned_us / self.tuned_us.median if self.untuned_us and self.tuned_us else None

    def __str__(self) -> str:
        times = (
            f"{self.untuned_us:.0f} -> {self.tuned_us.median:.0f} µs ({self.speedup:.2f}x)"
            if self.untuned_us and self.tuned_us
            else "no time"
        )
        failed = f", {self.failures} failed" if self.failures else ""
        return f"{self.task}  {self.layers} layers  {times}  {self.trials} of {self.candidates} candidates{failed}"


def first_guess(space: Sequence[Any], outcomes: Mapping[Any, Outcome]) -> float | None:
    """µs of a space's first candidate. None while it has no time."""
    outcome = outcomes.get(space[0]) if space else None
    return outcome.us.median if outcome and outcome.us else None


@dataclass(frozen=True)
class TuningResult:
    """What a search for faster kernels found.

    records: the file that holds every measurement.
    tasks: one for each kernel and kind of layer.
    measured: candidates measured in this run.
    seconds: the time of this run.
    untuned_us, tuned_us: the sum over all layers, each on the fastest kernel that it may run on; None while any has no time.
    """

    records: str
    tasks: tuple[TaskResult, ...]
    measured: int
    seconds: float
    untuned_us: float | None
    tuned_us: float | None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "tasks": [task.to_dict() for task in self.tasks], "speedup": self.speedup}

    @property
    def speedup(self) -> float | None:
        return self.untuned_us / self.tuned_us if self.untuned_us and self.tuned_us else None

    def __str__(self) -> str:
        lines = [str(task) for task in self.tasks]
        if self.untuned_us and self.tuned_us:
            lines.append(f"all layers: {self.untuned_us / 1e3:.2f} -> {self.tuned_us / 1e3:.2f} ms ({self.speedup:.2f}x)")
        return "\n".join([*lines, f"{self.measured} candidates measured in {self.seconds:.0f} s, in {self.records}"])
