"""Running a recipe's passes one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from sparsecc.errors import RecipeError
from sparsecc.graph.base import Graph
from sparsecc.passes._samples import numbered
from sparsecc.passes.base import Context, Pass, PassResult, registered_name


class HasPasses(Protocol):
    """What of a recipe is needed here."""

    @property
    def passes(self) -> Iterable[Pass]: ...

    @property
    def source(self) -> str: ...


def run(graph: Graph, recipe: HasPasses, context: Context) -> tuple[Graph, list[tuple[Pass, PassResult]]]:
    """The rewritten graph, and what each pass found and did, in order. The graph given stays as it was.

    Raises RecipeError, with the pass's place in the recipe, for a field that does not fit the model, InputError, with its number, for a
    sample that the model cannot take.
    """
    results: list[tuple[Pass, PassResult]] = []
    context = replace(context, original=graph)
    for number, step in enumerate(recipe.passes):
        try:
            with numbered(graph, context.calibration):
                result = step.apply(graph, context)
        except RecipeError as error:
            raise RecipeError(f"{recipe.source}: passes[{number}].{registered_name(step)}.{error}") from None
        results.append((step, result))
        graph = result.graph
        context = replace(context, original=result.original)
    return graph, results
