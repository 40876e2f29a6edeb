"""What layers take in code that is generated for them, by the share of their weights that is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sparsecc.codegen.candidates import Known, Task
    from sparsecc.codegen.target import Target
    from sparsecc.graph.base import Graph
    from sparsecc.passes.base import Clock

_LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # sparsities that are timed


def clock_of(example: Sequence[Any], target: Target, known: Mapping[Task, Known]) -> Clock | None:
    """Times layers for inputs like the example; None for a target that is not this machine."""
    from sparsecc.codegen.target import detect

    return partial(_times, example, target, known) if target.cpu == detect(target.threads).cpu else None


def _times(
    example: Sequence[Any], target: Target, known: Mapping[Task, Known], graph: Graph, pattern: str, names: Sequence[str]
) -> dict[str, Callable[[float], float]]:
    """Each layer where it stands in the model, with random masks at each of the levels, sparse or dense, whichever is faster; linear
    in between. A layer that no level lets run sparse counts as nothing, since its time is the same at all of them."""
    from sparsecc.codegen import compiler
    from sparsecc.codegen.choose import Chooser
    from sparsecc.passes.pack import Pack
    from sparsecc.passes.prune import Prune

    dense: dict[str, list[float]] = {name: [] for name in names}
    found: dict[str, dict[float, float]] = {name: {} for name in names}
    for sparsity in _LEVELS:
        step = Prune(targets=tuple(names), criterion="random", pattern=pattern, sparsity=sparsity, min_weights=0)
        chooser = Chooser(target, known=known)
        compiler.choose(Pack(targets=tuple(names)).apply(step.apply(graph).graph).graph, example, chooser)
        for choice in chooser.choices:
            if choice.site in found and choice.dense_us is not None and choice.measured_us is not None:
                dense[choice.site].append(choice.dense_us)
                found[choice.site][1 - sparsity] = min(choice.measured_us, choice.dense_us)
    return {name: _curve(found[name], dense[name]) for name in names}


def _curve(found: Mapping[float, float], dense: Sequence[float]) -> Callable[[float], float]:
    """Share kept → milliseconds. found: µs by share.  dense: µs, as often as it was timed."""
    if not found:
        return lambda _: 0.0
    whole = float(np.median(dense))
    shares = [*sorted(found), 1.0]
    times = np.maximum.accumulate([min(found.get(share, whole), whole) for share in shares])
    return lambda share: float(np.interp(share, shares, times)) / 1e3
