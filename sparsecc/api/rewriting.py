"""Running a recipe, and keeping what the account of it needs: the graph before, masked, and after."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from sparsecc import memory
from sparsecc.api import sources
from sparsecc.errors import RecipeWarning
from sparsecc.passes.base import Clock, Context, Pass, PassResult, Progress
from sparsecc.report.base import Measured

if TYPE_CHECKING:
    from sparsecc.graph.base import Graph
    from sparsecc.passes.pipeline import Hook
    from sparsecc.recipe import Recipe

_PACK = "sparsecc.passes.pack"


@dataclass
class Rewritten:
    """name: of the model.  original: as it came, in the order that layers have by now.  masked: with all changes but packing, which
    changes no output.  graph: the result.  example: one set of inputs in the model's order, None when nothing is to be run.
    source: where that came from.  calibration: the caller's samples.  notes: a sentence on each pass that changed nothing."""

    name: str
    original: Graph | None
    masked: Graph
    graph: Graph
    steps: Sequence[tuple[Pass, PassResult]]
    example: list[Any] | None
    calibration: Sequence[Any] = field(default_factory=tuple)
    source: sources.Source = "random"
    notes: Sequence[str] = ()

    def measured(self, count: int) -> Measured | None:
        """What the first `count` samples are; None when nothing is run."""
        if self.example is None:
            return None
        given = min(count, len(self.calibration))
        kinds = {"example": count} if self.source == "example" else {"calibration": given, "random": count - given}
        shapes = {spec.name: tuple(x.shape) for spec, x in zip(self.graph.inputs, self.example, strict=True)}
        return Measured(samples={kind: number for kind, number in kinds.items() if number}, shapes=shapes)

    def samples(self, count: int) -> Iterator[list[Any]]:
        """Sets of inputs: the calibration's, then random ones."""
        for number in range(count):
            if number < len(self.calibration):
                yield sources.in_order(self.graph.inputs, self.calibration[number])
            else:
                yield sources.random_inputs(self.graph.inputs, like=self.example, seed=number)

    def release(self) -> None:
        """Let go of the dense weights, once the account is done."""
        self.original, self.masked, self.steps = None, self.graph, ()
        self.graph.forget_file()
        gc.collect()  # graphs are full of cycles
        memory.trim()


def rewrite(
    graph: Graph,
    recipe: Recipe,
    calibration: Sequence[Any] | None,
    example: list[Any] | None,
    name: str,
    source: sources.Source = "random",
    progress: Callable[[Progress], None] | None = None,
    clock: Clock | None = None,
    scratch: str | PathLike[str] | None = None,
    destination: Literal["code", "onnx"] = "code",
    hooks: Sequence[Hook] = (),
) -> Rewritten:
    """Run the recipe's passes on a copy. Warns of each that changed nothing.  hooks: called after each."""
    from sparsecc.passes import pipeline

    context = Context(calibration=calibration, progress=progress, clock=clock, scratch=scratch, destination=destination)
    result, steps = pipeline.run(graph, recipe, context, hooks)
    original = steps[-1][1].original if steps else None  # in the order that layers have by now
    notes = [] if recipe.assumed else pipeline.idle(graph, recipe, steps)
    for note in notes:
        warnings.warn(note, RecipeWarning, stacklevel=4)  # at the line that called compile, convert or explain
    return Rewritten(name, original or graph, _before_packing(graph, steps), result, steps, example, calibration or (), source, notes)


def _before_packing(graph: Graph, steps: Sequence[tuple[Pass, PassResult]]) -> Graph:
    """The graph that the last pass other than `pack` changed."""
    for step, result in steps:
        if type(step).__module__ != _PACK and result.modified:
            graph = result.graph
    return graph
