"""Parts of the denoising steps, each with maps of its own, and where in them a timestep lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sparsecc.errors import RecipeError

Part = tuple[float, float]
"""Where a part begins and ends, as fractions of a run's steps: step i of n is in it where begin ≤ i / n < end."""
WHOLE: Part = (0.0, 1.0)
Steps = int | Sequence[Part]
_ROUNDING = 1e-6  # of timesteps that are float32
_MOST = 100  # equal parts: runs have no more steps


def parts_of(steps: Steps) -> tuple[Part, ...]:
    """Equal parts of the schedule, or the parts that are given, in order. Raises RecipeError for what are none."""
    if isinstance(steps, int):
        if not 1 <= steps <= _MOST:
            raise RecipeError(f"steps: {steps} parts; give 1 to {_MOST}")
        edges = [i / steps for i in range(steps + 1)]
        return tuple(pairwise(edges))
    parts = sorted((float(begin), float(end)) for begin, end in steps)
    if not parts:
        raise RecipeError("steps: no part of the schedule is named")
    for begin, end in parts:
        if not 0 <= begin < end <= 1:
            raise RecipeError(f"steps: {begin:g} to {end:g} is no part of the schedule, which goes from 0 to 1")
    for (_, end), (begin, _) in pairwise(parts):
        if begin < end:
            raise RecipeError(f"steps: two parts have {begin:g} in them")
    return tuple(parts)


def spelt(part: Part) -> str:
    """'steps 0.2 to 0.5'; "" for all steps."""
    return "" if part == WHOLE else f"steps {part[0]:g} to {part[1]:g}"


@dataclass(frozen=True)
class Schedule:
    """What a model is given as timesteps in a run. timesteps: at evenly spaced points of the run, from its begin to its end, falling or
    rising; linear in between, so that two are enough where steps are even. Raises RecipeError for what is none."""

    timesteps: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.timesteps) < 2:
            raise RecipeError("schedule: give the timesteps at the begin and the end of a run, as [1000, 0]")
        steps = np.diff(self.timesteps)
        if not (steps > 0).all() and not (steps < 0).all():
            raise RecipeError(f"schedule: {list(self.timesteps)} neither falls nor rises throughout")

    def __str__(self) -> str:
        return f"{self.timesteps[0]:g} to {self.timesteps[-1]:g}"

    def fraction(self, timestep: float) -> float | None:
        """Of the run that is over at a timestep; None for one that is not in it."""
        low, high = sorted((self.timesteps[0], self.timesteps[-1]))
        slack = _ROUNDING * (high - low)
        if not low - slack <= timestep <= high + slack:
            return None
        last = len(self.timesteps) - 1
        points = [i / last for i in range(last + 1)]
        falls = self.timesteps[-1] < self.timesteps[0]
        known, points = (self.timesteps[::-1], points[::-1]) if falls else (self.timesteps, points)
        return float(np.interp(timestep, known, points))

    def part(self, timestep: float, parts: Sequence[Part]) -> Part | None:
        """That a timestep is in, as far as float32 tells; None for one in none of them, or not in the run."""
        fraction = self.fraction(timestep)
        return None if fraction is None else part_with(parts, min(fraction + _ROUNDING, 1.0))


def part_with(parts: Sequence[Part], step: float) -> Part | None:
    """The part that a fraction of the schedule is in; the end of the schedule is in the last."""
    return next((part for part in parts if part[0] <= step < part[1] or step == part[1] == 1), None)
