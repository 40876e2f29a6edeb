"""Parts of the denoising steps that a recipe asks for, and which calibration inputs belong to which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsecc.attention.steps import WHOLE, Part, Schedule, Steps, part_with, parts_of
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import Graph
from sparsecc.registry import did_you_mean


@dataclass(frozen=True)
class Timed:
    """The parts that a recipe asks for; false where it asks for none, so that all steps are one. Raises RecipeError for what is none."""

    timestep: str | None
    schedule: tuple[float, ...]
    steps: Steps

    def __post_init__(self) -> None:
        if self.timestep is None and (self.schedule or self.steps != 1):
            raise RecipeError("timestep: missing; name the model's input by whose values calibration inputs belong to parts of the steps")
        if self.timestep is not None:
            Schedule(self.schedule)
        parts_of(self.steps)

    def __bool__(self) -> bool:
        return self.timestep is not None

    @property
    def parts(self) -> tuple[Part, ...]:
        return parts_of(self.steps)

    def part(self, step: float | None) -> Part | Refused:
        """The one whose maps a graph gets; refused where all is dense. Raises RecipeError where a step has to be named."""
        if step is None and len(self.parts) > 1:
            raise RecipeError("plan_step: missing; a model has one map for each attention, and 0.5 takes those in the middle of the steps")
        found = next(iter(self.parts)) if step is None else part_with(self.parts, step)
        return found or Refused(f"step {step:g} is in no part of the schedule that has maps")

    def inputs(self, graph: Graph, calibration: Sequence[Any]) -> dict[Part, Sequence[Any]]:
        """The calibration inputs of each part, told apart by what the timestep holds; those in no part are left out.

        Raises RecipeError for an input that the model does not have, a timestep that is not in the schedule, several in one sample that
        are in different parts, and a part that no sample is in.
        """
        if self.timestep is None:
            return {WHOLE: calibration}
        names, schedule = [spec.name for spec in graph.inputs], Schedule(self.schedule)
        if self.timestep not in names:
            raise RecipeError(f"timestep: the model has no input {self.timestep!r}{did_you_mean(self.timestep, names)}")
        found: dict[Part, list[Any]] = {part: [] for part in self.parts}
        for number, sample in enumerate(calibration):
            value = sample[self.timestep] if isinstance(sample, Mapping) else sample[names.index(self.timestep)]
            part = _part(value, schedule, self.parts, f"timestep: calibration input {number}")
            if part is not None:
                found[part].append(sample)
        for (begin, end), samples in found.items():
            if not samples:
                raise RecipeError(f"steps: no calibration input has a timestep in the part from {begin:g} to {end:g} of the schedule")
        return {**found}


def _part(value: Any, schedule: Schedule, parts: Sequence[Part], where: str) -> Part | None:
    import torch

    found: set[Part | None] = set()
    for timestep in torch.as_tensor(value).double().flatten().unique().tolist():
        if schedule.fraction(timestep) is None:
            raise RecipeError(f"{where} has the timestep {timestep:g}, the schedule goes from {schedule}")
        found.add(schedule.part(timestep, parts))
    if len(found) != 1:
        raise RecipeError(f"{where} has {'timesteps in several parts of the schedule; split its batch' if found else 'no timestep'}")
    return found.pop()
