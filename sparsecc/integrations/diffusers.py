"""Plans for the transformers of diffusers: recorded while a pipeline runs, and played by attention processors.

    with record(pipe) as recording:
        pipe(prompt)
    plan = recording.plan(ReorderTokens(grid=(13, 30, 45), text_tokens=226, density=0.3))
    apply(pipe, plan)

A processor here is the model's own: q, k and v, their norms and rotary embedding, and how text joins the image are computed as before. Only
the product, softmax(scale · q kᵀ) v, is computed by a map. Names in a plan are those of the attention modules in the transformer.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sparsecc.attention.base import BlockMap, Sample
from sparsecc.attention.plan import WHOLE, Plan, Planned, fingerprint
from sparsecc.codegen.cuda.blocks import hides_keys
from sparsecc.errors import RecipeError, Refused, UserError
from sparsecc.graph.select import chosen
from sparsecc.graph.sites import Attention
from sparsecc.integrations.play import Player
from sparsecc.integrations.processors import OWN, Call, Clock, attention, install, require_playable, sizes, transformer_of
from sparsecc.passes.reorder_tokens import ReorderTokens

_APPLIED: WeakKeyDictionary[nn.Module, Applied] = WeakKeyDictionary()


def apply(model: Any, plan: Plan | str | PathLike[str], steps: int | None = None) -> Applied:
    """Let a pipeline's transformer, or a transformer, compute its attention by a plan. Attention that the plan leaves out stays dense, and
    so do steps for which it has no map. A plan that was applied before is removed.

    steps: how many denoising steps a run makes, for a plan with maps for parts of them; a pipeline knows.

    Raises RecipeError for a plan that was made for another model, UserError for a model that has no attention as diffusers has it.
    """
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    transformer = transformer_of(model)
    modules = attention(transformer)
    in_parts, clock = any(planned.when for planned in plan.planned), Clock(_counter(model, steps))
    _require_made_for(plan, modules)
    require_playable(modules, plan.sites)
    if in_parts and steps is None and not hasattr(model, "transformer"):
        raise UserError("the plan has maps for parts of the steps: say how many steps a run makes (steps=), or give the pipeline")
    remove(transformer)
    if in_parts:
        clock.watch(transformer)
    played = [_Played(planned.steps, Player(planned.site, planned.map)) for planned in plan.planned]
    applied = Applied(tuple(modules), {name: [one for one in played if one.player.name == name] for name in plan.sites}, clock)
    install(modules, {name: functools.partial(applied.take, name) for name in plan.sites})
    _APPLIED[transformer] = applied
    return applied


def remove(model: Any) -> None:
    """Give a model's attention its own processors back."""
    transformer = transformer_of(model)
    for module in attention(transformer).values():
        processor = module.get_processor()
        if hasattr(processor, OWN):
            module.set_processor(getattr(processor, OWN))
    applied = _APPLIED.pop(transformer, None)
    if applied is not None:
        applied.clock.stop()


@contextmanager
def record(model: Any, steps: Sequence[int] = range(0, 1000, 10), folder: str | PathLike[str] | None = None) -> Iterator[Recording]:
    """Keep what enters each attention while a model runs in the block: one sample of each of these steps, the last of its batch, in memory,
    or in files of a folder. A sample of CogVideoX 5B takes 330 MB for each of its 42 layers. Runs of one step each are not told apart: of
    several in the block the first is kept.

    steps: of a run, counted from 0. Every tenth if not given.
    """
    transformer = transformer_of(model)
    modules = attention(transformer)
    if any(hasattr(module.get_processor(), OWN) for module in modules.values()):
        raise UserError("the model has a plan applied already; remove it first")
    require_playable(modules, modules)
    if folder is not None:
        Path(folder).mkdir(exist_ok=True)
    recording = Recording({name: sizes(module) for name, module in modules.items()}, frozenset(steps), folder)
    try:
        recording.clock.watch(transformer)
        install(modules, {name: functools.partial(recording.take, name) for name in modules})
        yield recording
    finally:
        recording.clock.stop()
        remove(transformer)


@dataclass
class Applied:
    """A plan at work. str() has a line for each attention: its map, and what computes it once it has been called."""

    names: tuple[str, ...]
    played: Mapping[str, Sequence[_Played]]
    clock: Clock

    def take(self, name: str, call: Call) -> Tensor | None:
        step = self.clock.fraction if self.clock.watching else 0.0
        for (begin, end), player in self.played[name]:
            if begin <= step < end:
                return player(call.q, call.k, call.v, call.scale, call.mask, call.causal)
        return None

    def __str__(self) -> str:
        return "\n".join(line for name in self.names for line in self._lines(name))

    def _lines(self, name: str) -> Iterator[str]:
        if name not in self.played:
            yield f"{name}: dense, the plan leaves it out"
        for (begin, end), player in self.played.get(name, ()):
            when = "" if (begin, end) == WHOLE else f"steps {begin:g} to {end:g}, "
            yield f"{name}: {when}density {player.map.density:.2f}, {player.runs}"


class _Played(NamedTuple):
    steps: tuple[float, float]
    player: Player


@dataclass
class Recording:
    """What entered the attention of a model. layers: heads and head_dim by name.  said: of the last plan, a line for each
    attention."""

    layers: Mapping[str, tuple[int, int]]
    steps: frozenset[int]
    folder: str | PathLike[str] | None = None
    clock: Clock = field(default_factory=lambda: Clock(lambda: None))
    said: list[str] = field(default_factory=list)
    _calls: dict[str, dict[tuple[int, int], _Kept]] = field(default_factory=dict)

    def take(self, name: str, call: Call) -> None:
        at, kept = (self.clock.runs, self.clock.index), self._calls.setdefault(name, {})
        if self.clock.index in self.steps and at not in kept:
            number = sum(map(len, self._calls.values()))
            kept[at] = _kept(name, call, None if self.folder is None else f"{self.folder}/{number}.pt")

    def plan(self, choose: ReorderTokens, steps: Sequence[tuple[float, float]] = (WHOLE,)) -> Plan:
        """The maps that the pass chooses for what was recorded.

        steps: parts of the schedule, as fractions of a run's steps, each with maps of its own: ((0.2, 0.5), (0.5, 1)) leaves the first
        fifth of the steps dense. Raises RecipeError where a part has no recorded step, and where no attention can be made sparse.
        """
        if choose.plan is not None:
            raise RecipeError("plan: a recording makes one; leave it out")
        if choose.precision != "float32":
            raise RecipeError("precision: a plan holds maps alone; give it to the recipe that compiles the plan")
        _require_parts(steps)
        self.said = []
        planned = [one for part in steps for one in self._part(choose, part)]
        if not planned:
            raise RecipeError(f"no attention can be made sparse: {self.said[0] if self.said else 'none was called'}")
        return Plan(fingerprint((name, *sizes) for name, sizes in self.layers.items()), planned)

    def _part(self, choose: ReorderTokens, part: tuple[float, float]) -> Iterator[Planned]:
        sites = [kept.site for calls in self._calls.values() for kept in [*calls.values()][:1]]
        sites.sort(key=lambda site: -(site.tokens or 0))  # what is refused first is what matters most
        for site in chosen(sites, Attention, choose.targets, choose.ignore):
            calls = {at: kept for at, kept in self._calls[site.name].items() if part[0] <= at[1] / self.clock.count < part[1]}
            if not calls:
                raise RecipeError(
                    f"no step from {part[0]:g} to {part[1]:g} of {self.clock.count} was recorded; name one in record(steps=...)"
                )
            found = choose.judged(site, [kept.sample() for kept in calls.values()])
            self.said.append(f"attention '{site.name}': {f'dense, {found.reason}' if isinstance(found, Refused) else found}")
            if not isinstance(found, Refused):
                assert isinstance(found.map, BlockMap)
                yield Planned(site.name, found.map, part)


class _Kept(NamedTuple):
    """One call. held: a Sample, or the file that it is in."""

    site: Attention
    held: Sample | str

    def sample(self) -> Sample:
        return Sample(*torch.load(self.held, weights_only=True)) if isinstance(self.held, str) else self.held


def _kept(name: str, call: Call, path: str | None) -> _Kept:
    """A mask that only hides keys hides the text's padding, which every order leaves where it is."""
    q, k, has_mask = call.q, call.k, call.mask is not None and not hides_keys(call.mask, call.q.shape[0], call.k.shape[2])
    site = Attention(
        name=name,
        heads=q.shape[1],
        kv_heads=k.shape[1],
        head_dim=q.shape[3],
        scale=call.scale,
        causal=call.causal,
        has_mask=has_mask,
        tokens=q.shape[2],
        kv_tokens=k.shape[2],
    )
    sample = Sample(*(x[-1:].detach().to("cpu", copy=True) for x in (q, k, call.v)))
    if path is None:
        return _Kept(site, sample)
    torch.save(tuple(sample), path)
    return _Kept(site, path)


def _counter(model: Any, steps: int | None) -> Callable[[], int | None]:
    """How many steps a run makes; a pipeline knows once it has begun. It is not kept alive."""
    held = weakref.ref(model)
    return lambda: steps if steps is not None else getattr(held(), "num_timesteps", None)


def _require_parts(steps: Sequence[tuple[float, float]]) -> None:
    for begin, end in steps:
        if not 0 <= begin < end <= 1:
            raise RecipeError(f"steps: {begin:g} to {end:g} is no part of the schedule, which goes from 0 to 1")
    for (_, end), (begin, _) in pairwise(sorted(steps)):
        if begin < end:
            raise RecipeError(f"steps: two parts have {begin:g} in them")


def _require_made_for(plan: Plan, modules: Mapping[str, Any]) -> None:
    own = {name: sizes(module) for name, module in modules.items()}
    for planned in plan.planned:
        if planned.site not in own:
            raise RecipeError(f"plan: made for another model, which had an attention '{planned.site}'")
        if planned.map.heads != own[planned.site][0]:
            raise RecipeError(f"plan: attention '{planned.site}' has {own[planned.site][0]} heads, the plan {planned.map.heads}")
    if plan.model != fingerprint((name, *found) for name, found in own.items()):
        raise RecipeError("plan: made for another model: its attention has other names, heads or sizes; record again")
