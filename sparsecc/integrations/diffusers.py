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
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sparsecc.attention.base import BlockMap, Sample
from sparsecc.attention.plan import Plan, Planned, fingerprint
from sparsecc.attention.steps import WHOLE, Part, Steps, parts_of, spelt
from sparsecc.codegen.cuda.blocks import hides_keys
from sparsecc.errors import RecipeError, Refused, UserError
from sparsecc.graph.select import chosen
from sparsecc.graph.sites import Attention
from sparsecc.integrations.again import Again, Inputs, output_of
from sparsecc.integrations.play import Player
from sparsecc.integrations.processors import OWN, Call, Clock, attention, install, require_playable, sizes, transformer_of
from sparsecc.passes.reorder_tokens import ReorderTokens, planned_of

T = TypeVar("T")
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
    or in files of a folder. A sample of CogVideoX 5B takes 330 MB for each of its 42 layers. What enters the transformer is kept, too, a
    few MB a step, in memory. Runs of one step each are not told apart: of several in the block the first is kept.

    steps: of a run, counted from 0. Every tenth if not given.
    """
    transformer = transformer_of(model)
    modules = attention(transformer)
    if any(hasattr(module.get_processor(), OWN) for module in modules.values()):
        raise UserError("the model has a plan applied already; remove it first")
    require_playable(modules, modules)
    if folder is not None:
        Path(folder).mkdir(exist_ok=True)
    recording = Recording({name: sizes(module) for name, module in modules.items()}, frozenset(steps), folder, weakref.ref(model))
    recording.clock.watch(transformer)
    begun = transformer.register_forward_pre_hook(recording.begin, with_kwargs=True)  # the clock has looked at the call before
    try:
        install(modules, {name: functools.partial(recording.take, name) for name in modules})
        yield recording
    finally:
        recording.clock.stop()
        begun.remove()
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
    """What entered the attention of a model. layers: heads and head_dim by name.  said: of the last plan, a line for each attention and
    part of the steps.  model: is not kept alive."""

    layers: Mapping[str, tuple[int, int]]
    steps: frozenset[int]
    folder: str | PathLike[str] | None
    model: Callable[[], Any]
    clock: Clock = field(default_factory=lambda: Clock(lambda: None))
    said: list[str] = field(default_factory=list)
    _calls: dict[str, dict[tuple[int, int], _Kept]] = field(default_factory=dict)
    _begun: dict[tuple[int, int], Inputs] = field(default_factory=dict)

    def begin(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        """A call of the transformer."""
        at = (self.clock.runs, self.clock.index)
        if self.clock.index in self.steps and at not in self._begun:
            self._begun[at] = Inputs.kept(args, kwargs)

    def take(self, name: str, call: Call) -> None:
        at, kept = (self.clock.runs, self.clock.index), self._calls.setdefault(name, {})
        if self.clock.index in self.steps and at not in kept:
            number = sum(map(len, self._calls.values()))
            kept[at] = _kept(name, call, None if self.folder is None else f"{self.folder}/{number}.pt")

    def plan(self, choose: ReorderTokens, steps: Steps = 1, held_out: Sequence[Callable[[], Tensor]] = ()) -> Plan:
        """The maps that the pass chooses for what was recorded.

        steps: how many equal parts of the schedule have maps of their own, or each part as fractions of a run's steps: ((0.2, 0.5),
        (0.5, 1)) leaves the first fifth of the steps dense. `allocation: sensitivity` divides the density over heads, layers and parts:
        for this the transformer runs again, on up to four recorded steps for each attention in each part.
        held_out: for a floor: runs of the pipeline, each with a prompt and seed that were not recorded, which give images, videos or
        latents as one tensor, the same each time. They are run dense, then by up to five plans, of which the one with the fewest blocks
        that reaches the floor in every run is taken. The model is left without a plan.

        Raises RecipeError where a part has no recorded step, where no attention can be made sparse, and for a floor without runs; UserError
        where the model has to be run and is gone, or has a plan applied.
        """
        if choose.plan is not None:
            raise RecipeError("plan: a recording makes one; leave it out")
        if choose.precision != "float32":
            raise RecipeError("precision: a plan holds maps alone; give it to the recipe that compiles the plan")
        if choose.timestep is not None:
            raise RecipeError("timestep: a recording knows its steps; leave it out, and give steps= to plan")
        _require_held_out(choose, held_out)
        parts, sites, again = parts_of(steps), self._sites(choose), self._again(held_out)
        if choose.allocation != ReorderTokens.allocation:
            again.transformer()  # measuring takes long: what cannot be run is said before
        found = choose.chosen(again, sites, parts)
        self.said = [_line(name, part, action) for part, chosen in found.items() for name, action in chosen.items()]
        planned = planned_of(found)
        if not planned:
            raise RecipeError(f"no attention can be made sparse: {self.said[0] if self.said else 'none was called'}")
        return self._plan(planned)

    def _plan(self, planned: Sequence[Planned]) -> Plan:
        return Plan(fingerprint((name, *sizes) for name, sizes in self.layers.items()), planned)

    def _sites(self, choose: ReorderTokens) -> list[Attention]:
        sites = [kept.site for calls in self._calls.values() for kept in [*calls.values()][:1]]
        sites.sort(key=lambda site: -(site.tokens or 0))  # what is refused first is what matters most
        return list(chosen(sites, Attention, choose.targets, choose.ignore))

    def _again(self, held_out: Sequence[Callable[[], Tensor]]) -> Again:
        """The model, which may have been recorded long ago."""

        def model() -> Any:
            found = self.model()
            if found is None:
                raise UserError("the model that was recorded is gone, and has to be run to tell what it loses")
            if transformer_of(found) in _APPLIED:
                raise UserError("the model has a plan applied; remove it first")
            return found

        def played(maps: Mapping[tuple[Part, str], BlockMap]) -> list[list[Tensor]]:
            found = model()
            plan = self._plan([Planned(name, one, part) for (part, name), one in maps.items()])
            apply(found, plan, None if hasattr(found, "transformer") else self.clock.count)
            try:
                return [[output_of(run, number)] for number, run in enumerate(held_out)]
            finally:
                remove(found)

        return Again(lambda: transformer_of(model()), self._samples, lambda part: [*self._in(part, self._begun).values()], played)

    def _samples(self, part: Part, name: str) -> list[Sample]:
        return [kept.sample() for kept in self._in(part, self._calls[name]).values()]

    def _in(self, part: Part, kept: Mapping[tuple[int, int], T]) -> dict[tuple[int, int], T]:
        """What was kept of the steps of a part."""
        found = {at: one for at, one in kept.items() if part[0] <= at[1] / self.clock.count < part[1]}
        if not found:
            raise RecipeError(f"no step from {part[0]:g} to {part[1]:g} of {self.clock.count} was recorded; name one in record(steps=...)")
        return found


def _line(name: str, part: Part, action: Any) -> str:
    where = ", ".join(filter(None, (f"attention '{name}'", spelt(part))))
    return f"{where}: {f'dense, {action.reason}' if isinstance(action, Refused) else action}"


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


def _require_held_out(choose: ReorderTokens, held_out: Sequence[Any]) -> None:
    floor = " and ".join(name for name in ("min_psnr", "min_ssim") if getattr(choose, name) is not None)
    if floor and not held_out:
        raise RecipeError(f"{floor}: needs runs of the pipeline that were not recorded; give them as held_out=")
    if held_out and not floor:
        raise RecipeError("held_out: is for min_psnr and min_ssim; give one of them, or leave it out")


def _require_made_for(plan: Plan, modules: Mapping[str, Any]) -> None:
    own = {name: sizes(module) for name, module in modules.items()}
    for planned in plan.planned:
        if planned.site not in own:
            raise RecipeError(f"plan: made for another model, which had an attention '{planned.site}'")
        if planned.map.heads != own[planned.site][0]:
            raise RecipeError(f"plan: attention '{planned.site}' has {own[planned.site][0]} heads, the plan {planned.map.heads}")
    if plan.model != fingerprint((name, *found) for name, found in own.items()):
        raise RecipeError("plan: made for another model: its attention has other names, heads or sizes; record again")
