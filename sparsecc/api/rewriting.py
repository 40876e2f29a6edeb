"""Running a recipe, and keeping what the account of it needs: the graph before, masked, and after."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Literal

from sparsecc import memory
from sparsecc.api import sources
from sparsecc.calibration.context import Clock, Context, Progress
from sparsecc.errors import RecipeWarning, Refused
from sparsecc.graph.sites import WeightSite
from sparsecc.passes import pipeline
from sparsecc.report.base import HeadReport, Measured
from sparsecc.report.ledger import Entry, Ledger

if TYPE_CHECKING:
    from sparsecc.criteria.base import Stats
    from sparsecc.graph.base import Graph
    from sparsecc.graph.inputs import Sample
    from sparsecc.recipe import Recipe


@dataclass
class Rewritten:
    """name: of the model.  original: as it came, in the order that layers have by now.  masked: with all changes but packing, which
    changes no output.  graph: the result.  ledger: what each pass did.  example: one set of inputs, None when nothing is to be run.
    source: of it.  calibration: the caller's samples.  notes: a sentence on each pass that changed nothing."""

    name: str
    original: Graph | None
    masked: Graph
    graph: Graph
    ledger: Ledger
    example: Sample | None
    calibration: Sequence[Sample] = field(default_factory=tuple)
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

    def samples(self, count: int) -> Iterator[Sample]:
        """Sets of inputs: the calibration's, then random ones."""
        from sparsecc.graph.inputs import bind  # which imports torch

        yield from self.calibration[:count]
        for number in range(len(self.calibration), count):
            yield bind(self.graph.inputs, sources.random_inputs(self.graph.inputs, like=self.example, seed=number))

    def release(self) -> None:
        """Let go of the dense weights, once the account is done."""
        self.original, self.masked = None, self.graph
        self.graph.forget_file()
        gc.collect()  # graphs are full of cycles
        memory.trim()


def rewrite(
    graph: Graph,
    recipe: Recipe,
    calibration: Sequence[Sample] | None,
    example: Sample | None,
    name: str,
    source: sources.Source = "random",
    progress: Callable[[Progress], None] | None = None,
    clock: Clock | None = None,
    scratch: str | PathLike[str] | None = None,
    destination: Literal["code", "onnx"] = "code",
    hooks: Sequence[pipeline.Hook] = (),
    stateful: bool = True,
    known: Mapping[str, Stats] | None = None,
) -> Rewritten:
    """Run the recipe's passes on a copy. Warns of each that changed nothing.  hooks: called after each.  stateful, known: as in
    `Context`."""
    context = Context(
        calibration=calibration,
        progress=progress,
        clock=clock,
        scratch=scratch,
        destination=destination,
        stateful=stateful,
        known=known,
    )
    ledger, masked = Ledger(), graph

    def enter(step: pipeline.Step) -> None:
        nonlocal masked
        ledger.add(_entries(step))
        if step.by.changes_outputs and step.result.modified:
            masked = step.result.graph

    result, steps = pipeline.run(graph, recipe, context, [enter, *hooks])
    original = steps[-1][1].original if steps else None  # in the order that layers have by now
    notes = [] if recipe.assumed else pipeline.idle(graph, recipe, steps)
    for note in notes:
        warnings.warn(note, RecipeWarning, stacklevel=4)  # at the line that called compile, convert or explain
    return Rewritten(name, original or graph, masked, result, ledger, example, calibration or (), source, notes)


def _entries(step: pipeline.Step) -> Iterator[Entry]:
    """What a pass did at each site, and at the layers that it is about."""
    pattern = step.by.asked_pattern
    after = {site.name: site for site in step.result.graph.sites(WeightSite)} if pattern else {}
    for match in step.result.matches:
        for name in (match.site.name, *match.layers):
            if match.refused is not None:
                yield Entry(step=step.name, site=name, refused=match.refused.reason)
            else:
                stored = stored_share(pattern, after[name]) if pattern and name in after else None
                heads = tuple(HeadReport(**head._asdict()) for head in match.heads)
                yield Entry(step=step.name, site=name, done=str(match.action), pattern=pattern, stored=stored, heads=heads)


def stored_share(pattern: str, site: WeightSite) -> float:
    """The share of a weight that is stored under this pattern: zeros that do not fill a unit are stored, too."""
    from sparsecc import patterns

    keep = site.keep
    cover = None if keep is None else patterns.parse(pattern).cover(keep)
    return 1.0 if cover is None or isinstance(cover, Refused) else int(cover.count_nonzero()) / max(1, cover.numel())
