"""Running a recipe's passes one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from sparsecc.graph.base import Graph
from sparsecc.passes.base import Context, Pass, PassResult


class HasPasses(Protocol):
    """What of a recipe is needed here."""

    @property
    def passes(self) -> Iterable[Pass]: ...


def run(graph: Graph, recipe: HasPasses, context: Context) -> tuple[Graph, list[tuple[Pass, PassResult]]]:
    """The rewritten graph, and what each pass found and did, in order. The graph given stays as it was."""
    results: list[tuple[Pass, PassResult]] = []
    for step in recipe.passes:
        result = step.apply(graph, context)
        results.append((step, result))
        graph = result.graph
    return graph, results
