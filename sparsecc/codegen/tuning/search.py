"""Which candidates to measure next: those that the cost model believes in, and some by chance.

Before there is a model, changes of the best so far stand for what it would believe in.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple

from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.cost_model import CostModel
from sparsecc.codegen.tuning.records import Outcome

Outcomes = Mapping[Knobs, Outcome]
_PARENTS = 6
_RANDOM_SHARE = 0.25  # of each batch, so that the model sees what it does not believe in


def propose(task: Task, space: Sequence[Knobs], outcomes: Outcomes, model: CostModel, count: int, rng: random.Random) -> list[Knobs]:
    """Up to `count` candidates that were not measured, most promising first; none when all were. The first guess is always the first."""
    untried = [knobs for knobs in space if knobs not in outcomes]
    if untried and untried[0] == space[0]:
        return untried[:1]
    if len(untried) <= count:
        return model.rank(task, untried)
    likely = model.rank(task, untried) if model.trained else _changed(untried, outcomes, count, rng)
    chance = rng.sample(untried, max(1, round(count * _RANDOM_SHARE)))
    return list(dict.fromkeys([*likely[: count - len(chance)], *chance]))


def _changed(untried: Sequence[Knobs], outcomes: Outcomes, count: int, rng: random.Random) -> list[Knobs]:
    """Children of the fastest so far, then any."""
    times = {knobs: outcome.us.median for knobs, outcome in outcomes.items() if outcome.us}
    parents = sorted(times, key=times.__getitem__)[:_PARENTS]
    return list(dict.fromkeys([*children(untried, parents), *rng.sample(untried, count)]))


def children(untried: Iterable[Knobs], parents: Sequence[Knobs]) -> list[Knobs]:
    """Those that differ from one parent in one knob (mutations), or have each knob from one of two parents (crossings)."""
    rows = [astuple(parent) for parent in parents]
    found = []
    for knobs in untried:
        differences = [{i for i, (a, b) in enumerate(zip(astuple(knobs), row, strict=True)) if a != b} for row in rows]
        mutation = any(len(difference) == 1 for difference in differences)
        if mutation or any(not (a & b) for i, a in enumerate(differences) for b in differences[:i]):
            found.append(knobs)
    return found
