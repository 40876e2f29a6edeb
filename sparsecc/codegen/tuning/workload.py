"""What a model asks to be tuned: the tasks of its layers, equal ones once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparsecc.codegen.calls import Way
from sparsecc.codegen.choose import Chooser, tasks
from sparsecc.codegen.spec import MatmulSpec
from sparsecc.codegen.target import T
from sparsecc.codegen.task import Task

if TYPE_CHECKING:
    from sparsecc.codegen.recognize.program import Layer

Rivals = tuple[Task, ...]


@dataclass(frozen=True)
class Workload:
    """layers: how many layers have the choice between these tasks, of which the fastest will run.
    weights: one layer's weight for each task whose time depends on it, as .npy."""

    layers: Counter[Rivals] = field(default_factory=Counter)
    weights: dict[Task, Path] = field(default_factory=dict)

    @property
    def tasks(self) -> list[Task]:
        """Each once; those that any weight fits first, since the others can be compared with them."""
        found = dict.fromkeys(task for rivals in self.layers for task in rivals)
        return sorted(found, key=lambda task: task.structure is not None)

    def rivals(self, task: Task) -> list[Task]:
        """What else could do the same: tasks of layers that may run on `task`."""
        return [other for rivals in self.layers if task in rivals for other in rivals if other != task]


@dataclass
class Collector(Chooser[T]):
    """A chooser that measures nothing, and notes in `workload` what there is to choose. folder: for the weights."""

    folder: Path = Path()
    workload: Workload = field(default_factory=Workload)

    def choose(self, spec: MatmulSpec, layer: Layer) -> Way:
        matrix = layer.numbers.matrix
        rivals = tuple(tasks(spec, layer, matrix, self.target))
        self.workload.layers[rivals] += 1
        for task in rivals:
            if task.structure is not None and task not in self.workload.weights:
                path = self.folder / f"{len(self.workload.weights)}.npy"
                np.save(path, matrix)
                self.workload.weights[task] = path
        return super().choose(spec, layer)
