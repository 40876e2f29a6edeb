"""What layers take in code that is generated for them, by the share of their weights that is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecc.calibration.context import Progress
from sparsecc.ranks.work import of_first

if TYPE_CHECKING:
    from sparsecc.calibration.context import Clock
    from sparsecc.codegen.choose import Choice
    from sparsecc.codegen.target import Target
    from sparsecc.codegen.task import Known, Task
    from sparsecc.graph.base import Graph

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # sparsities that are timed


def clock_of(
    example: Sequence[Any], target: Target, known: Mapping[Task, Known], progress: Callable[[Progress], None] | None = None
) -> Clock | None:
    """Times layers for inputs like the example; None for a target that is not this machine.

    Each layer where it stands in the model, in float32, with random masks at each of the levels, sparse or dense, whichever is
    faster; linear in between. A layer that no level makes faster counts as nothing. Of several ranks the first one measures."""

    def clock(graph: Graph, pattern: str, names: Sequence[str]) -> dict[str, Callable[[float], float]]:
        found = of_first("timing layers", lambda: _choices(example, target, known, progress, graph, pattern, names))
        return {name: curve(found[name]) for name in names}

    return clock if target.is_here else None


def _choices(
    example: Sequence[Any],
    target: Target,
    known: Mapping[Task, Known],
    progress: Callable[[Progress], None] | None,
    graph: Graph,
    pattern: str,
    names: Sequence[str],
) -> dict[str, dict[float, Choice]]:
    from sparsecc.codegen import compiler
    from sparsecc.codegen.choose import Chooser
    from sparsecc.passes.pack import Pack

    targets = tuple(names)
    chooser = Chooser(target, known=known)  # one for all levels: dense layers are compiled once
    found: dict[str, dict[float, Choice]] = {name: {} for name in names}
    for done, sparsity in enumerate(LEVELS, 1):
        chooser.choices.clear()
        compiler.choose(Pack(targets=targets).apply(_at_random(graph, targets, pattern, sparsity)).graph, example, chooser)
        for choice in chooser.choices:
            if choice.site in found:
                found[choice.site][1 - sparsity] = choice
        if progress is not None:
            progress(Progress("timing layers", done, len(LEVELS), f"{pattern} at {sparsity:.0%}"))
    return found


def _at_random(graph: Graph, names: Sequence[str], pattern: str, sparsity: float) -> Graph:
    """With random masks on these layers."""
    from sparsecc.graph.sites import WeightSite
    from sparsecc.pruning import Cut, Pruning

    masked, pruning = graph.copy(), Pruning(criterion="random", pattern=pattern, min_weights=0)
    for site in masked.sites(WeightSite, tuple(names)):
        cut = pruning.cut(site, sparsity, {}, seed=0)
        if isinstance(cut, Cut):
            masked.set_weight(site, cut.weight)
    return masked


def curve(choices: Mapping[float, Choice]) -> Callable[[float], float]:
    """Share kept → milliseconds. choices: by share; at the other levels the layer stays dense."""
    timed = {share: (c.measured_us, c.dense_us) for share, c in choices.items() if c.measured_us is not None and c.dense_us is not None}
    if not timed:
        return lambda _: 0.0
    dense = float(np.median([whole for _, whole in timed.values()]))
    shares = sorted({*(1 - sparsity for sparsity in LEVELS), 1.0})
    fastest = [min(timed.get(share, (dense,))[0], dense) for share in shares]
    times = np.minimum.accumulate(fastest[::-1])[::-1]  # fewer weights take no longer: some zeros could be stored
    if times[0] == dense:
        return lambda _: 0.0
    return lambda share: float(np.interp(share, shares, times)) / 1e3
