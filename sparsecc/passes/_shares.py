"""Densities for each head of each attention in each part of the denoising steps: shared out by loss, or as low as a floor allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sparsecc.attention.base import Asked, BlockMap, Choice, Pattern, Sample
from sparsecc.attention.rounding import Precision
from sparsecc.attention.steps import Part
from sparsecc.calibration.context import Context
from sparsecc.calibration.outputs import Outputs
from sparsecc.errors import Refused
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Attention
from sparsecc.passes._floor import Floor, HeldOut, least_above
from sparsecc.passes._gains import UNIFORM, Gains, with_maps
from sparsecc.passes._reordering import Reordering

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.attention.ladder import Ladder
    from sparsecc.attention.sharing import Measured

Chosen = dict[str, Reordering | Refused]
"""What becomes of each attention in a part of the steps."""
Entering = Iterator[tuple[Attention, Sequence[Sample]]]
Maps = Mapping[tuple[Part, str], BlockMap]
"""By part of the steps and attention; attention that is not among them is dense."""


class Source(Protocol):
    """A model, as far as densities are chosen for it."""

    def entering(self, part: Part, sites: Sequence[Attention]) -> Entering:
        """These sites, with what enters each in a part of the steps."""
        ...

    def gain(self, part: Part, site: Attention, ladder: Ladder) -> float:
        """The model's relative squared error, in a part, for a relative squared error of the site's output of 1."""
        ...

    def held_out(self, maps: Maps) -> list[list[Tensor]]:
        """The floating outputs for each held-out input, with these maps."""
        ...


class OfGraph:
    """inputs: of each part, to choose on.  held_out: others.  tapped: what enters sites on some inputs.  precision: with which the held-out
    inputs are run."""

    def __init__(
        self,
        graph: Graph,
        inputs: Mapping[Part, Sequence[Any]],
        tapped: Callable[[Graph, Sequence[Attention], Sequence[Any]], Entering],
        held_out: Sequence[Any] = (),
        precision: Precision = "float32",
    ) -> None:
        self._graph, self._inputs, self._tapped, self._held_out = graph, inputs, tapped, held_out
        self._precision: Precision = precision
        self._gains: dict[Part, Gains] = {}

    def entering(self, part: Part, sites: Sequence[Attention]) -> Entering:
        return self._tapped(self._graph, sites, self._inputs[part])

    def gain(self, part: Part, site: Attention, ladder: Ladder) -> float:
        if part not in self._gains:
            self._gains[part] = Gains(self._graph, self._inputs[part])
        return self._gains[part].of(site, ladder)

    def held_out(self, maps: Maps) -> list[list[Tensor]]:
        """Of one part."""
        by_site = {site: found for (_, site), found in maps.items()}
        return Outputs(with_maps(self._graph, by_site, self._precision), self._held_out).dense


@dataclass(frozen=True)
class Sharing:
    """What a recipe asks for. asked: of the pattern, at a site that these samples enter.  decided: what becomes of a choice, and what is
    said of outputs that were checked.  context: whom to tell how far it is."""

    pattern: Pattern
    allocation: str
    asked: Callable[[Attention, Sequence[Sample]], Asked | Refused]
    decided: Callable[[Attention, Choice, str], Reordering | Refused]
    context: Context

    def at(
        self, density: float, source: Source, sites: Sequence[Attention], parts: Sequence[Part], wanted: Sequence[Part]
    ) -> dict[Part, Chosen]:
        """The maps of the wanted parts: all parts are measured, then each attention chooses again, at the density of each head."""
        from sparsecc.attention.ladder import choose  # which imports torch
        from sparsecc.attention.sharing import shared_out

        found: dict[Part, Chosen] = {part: {} for part in parts}
        measured = [one.without_maps() for one in self._measured(source, sites, parts, found)]
        kept = zip(measured, shared_out(self.allocation, measured, density), strict=True)
        densities = {(one.steps, one.site): [blocks / one.ladder.full for blocks in heads] for one, heads in kept}
        for part in wanted:
            for site, samples in source.entering(part, [site for site in sites if site.name not in found[part]]):
                asked = self.asked(site, samples)
                assert isinstance(asked, Asked)  # as before
                found[part][site.name] = self.decided(site, choose(self.pattern, asked, densities[part, site.name]), "")
        return {part: found[part] for part in wanted}

    def above(
        self, floor: Floor, max_error: float | None, source: Source, sites: Sequence[Attention], parts: Sequence[Part]
    ) -> dict[Part, Chosen]:
        """The maps of all parts together, at the lowest density with which the model's outputs reach a floor on held-out inputs.

        max_error: heads whose error on the other inputs is above are dense in all of it."""
        from sparsecc.attention.judge import held  # which imports torch, as the others do
        from sparsecc.attention.ladder import DENSITIES
        from sparsecc.attention.sharing import least

        found: dict[Part, Chosen] = {part: {} for part in parts}
        if not sites:
            return found
        held_out = HeldOut(source.held_out({}), floor)  # first: measuring takes long
        measured = list(self._measured(source, sites, parts, found))
        if not measured:
            return found

        def attempt(density: float) -> tuple[dict[tuple[Part, str], Choice], list[list[Tensor]]]:
            steps = zip(measured, self._steps(measured, density), strict=True)
            choices = {(one.steps, one.site): held(one.ladder.choice(heads), max_error) for one, heads in steps}
            return choices, source.held_out({at: choice.map for at, choice in choices.items()})

        densities = sorted({max(density, least(measured)) for density in DENSITIES})
        reached = least_above(held_out, densities, attempt, self.context)
        by_name = {site.name: site for site in sites}
        for one in measured:
            if isinstance(reached, Refused):
                found[one.steps][one.site] = reached
            else:
                found[one.steps][one.site] = self.decided(by_name[one.site], reached.choices[one.steps, one.site], reached.said)
        return found

    def _steps(self, measured: Sequence[Measured], density: float) -> list[list[int]]:
        """The steps of each ladder that come nearest to a density of the whole."""
        from sparsecc.attention.sharing import shared_out

        if self.allocation == UNIFORM:
            return [one.ladder.at(density) for one in measured]
        kept = shared_out(self.allocation, measured, density)
        return [one.ladder.nearest(heads) for one, heads in zip(measured, kept, strict=True)]

    def _measured(
        self, source: Source, sites: Sequence[Attention], parts: Sequence[Part], refused: Mapping[Part, Chosen]
    ) -> Iterator[Measured]:
        """Part by part; what cannot be measured comes into `refused`."""
        from sparsecc.attention.ladder import Ladder
        from sparsecc.attention.sharing import Measured

        for number, part in enumerate(parts):
            ladders: list[tuple[Attention, Ladder]] = []
            for done, (site, samples) in enumerate(source.entering(part, sites), number * len(sites) + 1):
                asked = self.asked(site, samples)
                if isinstance(asked, Refused):
                    refused[part][site.name] = asked
                else:
                    ladders.append((site, Ladder.of(self.pattern, asked)))
                self.context.tell("measuring attention", done, len(parts) * len(sites), site.name)
            for site, ladder in ladders:
                gain = 1.0 if self.allocation == UNIFORM else source.gain(part, site, ladder)
                yield Measured(site.name, ladder, gain, part)
