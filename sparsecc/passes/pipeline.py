"""Running a recipe's passes one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from sparsecc.calibration.context import Context
from sparsecc.calibration.samples import numbered
from sparsecc.errors import RecipeError
from sparsecc.graph.base import Graph
from sparsecc.passes.base import Pass, PassResult, registered_name

_REASONS = 3  # that a sentence names


@dataclass(frozen=True)
class Step:
    """A pass that has run. number: its place in the recipe.  name: what recipes call it.  before: the graph that it was given."""

    number: int
    name: str
    by: Pass
    before: Graph
    result: PassResult


Hook = Callable[[Step], None]


class HasPasses(Protocol):
    """What of a recipe is needed here."""

    @property
    def passes(self) -> Iterable[Pass]: ...

    @property
    def strict(self) -> bool: ...

    @property
    def source(self) -> str: ...


def run(graph: Graph, recipe: HasPasses, context: Context, hooks: Sequence[Hook] = ()) -> tuple[Graph, list[tuple[Pass, PassResult]]]:
    """The rewritten graph, and what each pass found and did, in order. The graph given stays as it was.

    hooks: called after each pass.

    Raises RecipeError, with the pass's place in the recipe, for a field that does not fit the model, and under `strict` for a pass
    that changes nothing; InputError, with its number, for a sample that the model cannot take.
    """
    results: list[tuple[Pass, PassResult]] = []
    context = replace(context, original=graph)
    for number, step in enumerate(recipe.passes):
        with placed(graph, recipe, number, step, context):
            result = step.apply(graph, context)
        if recipe.strict and not result.modified:
            raise RecipeError(f"{_place(recipe, number, step)} {_idle(graph, result)}")
        results.append((step, result))
        for hook in hooks:
            hook(Step(number, registered_name(step), step, graph, result))
        graph = result.graph
        context = replace(context, original=result.original, known=None if result.modified else context.known)
    return graph, results


@contextmanager
def placed(graph: Graph, recipe: HasPasses, number: int, step: Pass, context: Context) -> Iterator[None]:
    """A RecipeError in here names the pass's place in the recipe, an InputError the sample."""
    try:
        with numbered(graph, context.calibration):
            yield
    except RecipeError as error:
        raise RecipeError(f"{_place(recipe, number, step)}.{error}") from None


def idle(graph: Graph, recipe: HasPasses, results: Sequence[tuple[Pass, PassResult]]) -> list[str]:
    """A sentence on each pass that changed nothing. graph: what the first pass was given."""
    return [
        f"{_place(recipe, number, step)} {_idle(graph, result)}" for number, (step, result) in enumerate(results) if not result.modified
    ]


def _place(recipe: HasPasses, number: int, step: Pass) -> str:
    return f"{recipe.source}: passes[{number}].{registered_name(step)}"


def _idle(graph: Graph, result: PassResult) -> str:
    """'changed nothing', and why."""
    refused: dict[str, list[str]] = {}
    for match in result.matches:
        if match.refused is not None:
            refused.setdefault(match.refused.reason, []).append(f"'{match.site.name}'")
    for weight in graph.unseen() if not refused else ():
        refused.setdefault(weight.reason, []).append(f"{weight.kind} '{weight.name}'")
    reasons = "; ".join(f"{_listed(names)}: {reason}" for reason, names in _some(refused))
    if result.matches:
        return f"changed nothing: {reasons}"
    return f"changed nothing: the model has no layer that it works on{f' ({reasons})' if reasons else ''}"


def _some(refused: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    """The reasons of most layers."""
    return sorted(refused.items(), key=lambda item: -len(item[1]))[:_REASONS]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
