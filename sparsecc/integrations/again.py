"""A transformer run again: its recorded steps with one attention sparse, and whole runs of its pipeline by a plan."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparsecc.attention.base import BlockMap, Sample
from sparsecc.attention.ladder import Ladder
from sparsecc.attention.sharing import HIGHEST_GAIN
from sparsecc.attention.steps import Part
from sparsecc.calibration.outputs import spread
from sparsecc.calibration.sensitivity import PROBE, SAMPLES
from sparsecc.errors import RecipeError, UserError
from sparsecc.forms import dtype_of
from sparsecc.graph.sites import Attention
from sparsecc.integrations.play import Player
from sparsecc.integrations.processors import OWN, Call, attention, install


class Inputs(NamedTuple):
    """Of one call of a transformer."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def kept(cls, args: Any, kwargs: Any) -> Inputs:
        """In memory of their own: schedulers write into theirs."""
        return cls(*pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, (args, kwargs)))


@dataclass
class Again:
    """A `Source` of the pass. transformer: gives it, or raises UserError where it cannot be run.  samples: what entered an attention in a
    part of the steps.  calls: of the transformer in it.  played: what a pipeline's held-out runs give, with maps."""

    transformer: Callable[[], nn.Module]
    samples: Callable[[Part, str], Sequence[Sample]]
    calls: Callable[[Part], Sequence[Inputs]]
    played: Callable[[Mapping[tuple[Part, str], BlockMap]], list[list[Tensor]]]
    _dense: dict[Part, list[Tensor]] = field(default_factory=dict)

    def entering(self, part: Part, sites: Sequence[Attention]) -> Iterator[tuple[Attention, Sequence[Sample]]]:
        return ((site, self.samples(part, site.name)) for site in sites)

    def gain(self, part: Part, site: Attention, ladder: Ladder) -> float:
        """Measured in the transformer's output, at a few of the recorded steps: with only this attention sparse, so little that errors add
        up, and above those of rounding."""
        probe = ladder.probe(PROBE)
        if probe is None:
            return 0.0  # nothing that it leaves out is lost
        found, error = probe
        if part not in self._dense:
            self._dense = {part: self._outputs(part)}  # of one part at a time
        dense = self._dense[part]
        apart = sum(_power(y - other) for y, other in zip(dense, self._outputs(part, Player(site.name, found)), strict=True))
        whole = sum(map(_power, dense))
        if not whole:
            raise UserError("the transformer gives zeros alone, so that no error can be measured in its outputs")
        gain = apart / whole / error
        return min(gain, HIGHEST_GAIN) if math.isfinite(gain) else HIGHEST_GAIN

    def held_out(self, maps: Mapping[tuple[Part, str], BlockMap]) -> list[list[Tensor]]:
        return self.played(maps)

    def _outputs(self, part: Part, player: Player | None = None) -> list[Tensor]:
        """For each call, in float64; with one attention by a map."""
        transformer, calls = self.transformer(), spread(self.calls(part), SAMPLES)
        takes = {} if player is None else {player.name: functools.partial(_play, player)}
        modules = {name: module for name, module in attention(transformer).items() if name in takes}
        install(modules, takes)
        try:
            with torch.no_grad():
                return [transformer(*call.args, **call.kwargs)[0].double() for call in calls]
        finally:
            for module in modules.values():
                module.set_processor(getattr(module.get_processor(), OWN))


def output_of(run: Callable[[], Any], number: int) -> Tensor:
    """What a held-out run gives, on the CPU. Raises RecipeError for anything but a tensor of floating numbers."""
    found = run()
    if not isinstance(found, Tensor) or not found.is_floating_point():
        kind = f"a tensor of {dtype_of(found)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise RecipeError(f'held_out: run {number} gives {kind}, not one tensor of floating numbers; pipelines do with output_type="pt"')
    return found.detach().float().cpu()


def _play(player: Player, call: Call) -> Tensor:
    return player(call.q, call.k, call.v, call.scale, call.mask, call.causal)


def _power(y: Tensor) -> float:
    return float(y.square().sum())
