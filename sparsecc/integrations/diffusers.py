"""Plans for the transformers of diffusers: recorded while a pipeline runs, and played by attention processors.

    with record(pipe) as recording:
        pipe(prompt)
    plan = recording.plan(ReorderTokens(grid=(13, 30, 45), text_tokens=226, density=0.3))
    apply(pipe, plan)

A processor here is the model's own: q, k and v, their norms and rotary embedding, and how text joins the image are computed as before. Only
the product, softmax(scale · q kᵀ) v, is computed by a map. Names in a plan are those of the attention modules in the transformer.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sparsecc.attention.base import Sample
from sparsecc.attention.plan import WHOLE, Plan, Planned, fingerprint
from sparsecc.errors import InputError, RecipeError, Refused, UserError
from sparsecc.graph.select import chosen
from sparsecc.graph.sites import Attention
from sparsecc.integrations.play import Player, hides_keys
from sparsecc.passes.reorder_tokens import ReorderTokens

_APPLIED: WeakKeyDictionary[nn.Module, Applied] = WeakKeyDictionary()


def apply(model: Any, plan: Plan | str | PathLike[str], steps: int | None = None) -> Applied:
    """Let a pipeline's transformer, or a transformer, compute its attention by a plan. Attention that the plan leaves out stays dense, and
    so do steps for which it has no map. A plan that was applied before is removed.

    steps: how many denoising steps a run makes, for a plan with maps for parts of them; a pipeline knows.

    Raises RecipeError for a plan that was made for another model, UserError for a model that has no attention as diffusers has it.
    """
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    transformer = _transformer(model)
    modules = attention(transformer)
    _require_made_for(plan, modules)
    remove(transformer)
    clock = _Clock(_counter(model, steps))
    if any(planned.when for planned in plan.planned):
        if steps is None and not hasattr(model, "transformer"):
            raise UserError("the plan has maps for parts of the steps: say how many steps a run makes (steps=), or give the pipeline")
        clock.watch(transformer)
    played = [_Played(planned.steps, Player(planned.site, planned.map)) for planned in plan.planned]
    applied = Applied(tuple(modules), {name: [one for one in played if one.player.name == name] for name in plan.sites}, clock)
    _install(modules, {name: functools.partial(applied.take, name) for name in plan.sites})
    _APPLIED[transformer] = applied
    return applied


def remove(model: Any) -> None:
    """Give a model's attention its own processors back."""
    transformer = _transformer(model)
    for module in attention(transformer).values():
        processor = module.get_processor()
        if hasattr(processor, _OWN):
            module.set_processor(getattr(processor, _OWN))
    applied = _APPLIED.pop(transformer, None)
    if applied is not None:
        applied.clock.stop()


@contextmanager
def record(model: Any, steps: Sequence[int] = range(0, 1000, 10), folder: str | PathLike[str] | None = None) -> Iterator[Recording]:
    """Keep what enters each attention while a model runs in the block: one sample of each of these steps, the last of its batch, in memory,
    or in files of a folder. A sample of CogVideoX 5B takes 330 MB for each of its 42 layers.

    steps: of a run, counted from 0. Every tenth if not given.
    """
    transformer = _transformer(model)
    modules = attention(transformer)
    if any(hasattr(module.get_processor(), _OWN) for module in modules.values()):
        raise UserError("the model has a plan applied already; remove it first")
    recording = Recording({name: _sizes(module) for name, module in modules.items()}, frozenset(steps), folder)
    try:
        recording.clock.watch(transformer)
        _install(modules, {name: functools.partial(recording.take, name) for name in modules})
        yield recording
    finally:
        recording.clock.stop()
        remove(transformer)


def attention(transformer: nn.Module) -> dict[str, Any]:
    """The attention modules of a transformer by name, in its order. Raises UserError where there are none."""
    found = {name: module for name, module in transformer.named_modules() if hasattr(module, "get_processor") and hasattr(module, "heads")}
    if not found:
        raise UserError(f"{type(transformer).__name__} has no attention with a processor, as diffusers' transformers have")
    return found


@dataclass
class Applied:
    """A plan at work. str() has a line for each attention: its map, and what computes it once it has been called."""

    names: tuple[str, ...]
    played: Mapping[str, Sequence[_Played]]
    clock: _Clock

    def take(self, name: str, call: _Call) -> Tensor | None:
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
    """What entered the attention of a model. layers: heads and head_dim by name.  said: of the last plan, a line for each attention."""

    layers: Mapping[str, tuple[int, int]]
    steps: frozenset[int]
    folder: str | PathLike[str] | None = None
    clock: _Clock = field(default_factory=lambda: _Clock(lambda: None))
    said: list[str] = field(default_factory=list)
    _calls: dict[str, dict[tuple[int, int], _Kept]] = field(default_factory=dict)

    def take(self, name: str, call: _Call) -> None:
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
            self.said.append(f"attention '{site.name}': {found.reason if isinstance(found, Refused) else found}")
            if not isinstance(found, Refused):
                yield Planned(site.name, found.map, part)


class _Kept(NamedTuple):
    """One call. held: a Sample, or the file that it is in."""

    site: Attention
    held: Sample | str

    def sample(self) -> Sample:
        return Sample(*torch.load(self.held, weights_only=True)) if isinstance(self.held, str) else self.held


def _kept(name: str, call: _Call, path: str | None) -> _Kept:
    """A mask that only hides keys hides the text's padding, which every order leaves where it is."""
    q, k, has_mask = call.q, call.k, call.mask is not None and not hides_keys(call.mask)
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


class _Clock:
    """Which step a transformer is in. Steps are told apart by their timesteps, which fall within a run; a rise begins another run."""

    def __init__(self, steps: Callable[[], int | None]) -> None:
        self.runs = self.index = self.count = 0
        self.watching = False
        self._steps, self._last, self._stop = steps, None, lambda: None

    def watch(self, transformer: nn.Module) -> None:
        names = inspect.signature(transformer.forward)
        if "timestep" not in names.parameters:
            raise UserError(f"{type(transformer).__name__} takes no timestep, so that its steps cannot be told apart")

        def noted(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._note(float(torch.as_tensor(names.bind_partial(*args, **kwargs).arguments["timestep"]).max()))

        self._stop, self.watching = transformer.register_forward_pre_hook(noted, with_kwargs=True).remove, True

    def stop(self) -> None:
        self._stop()
        self.watching = False

    def _note(self, timestep: float) -> None:
        if self._last is None or timestep > self._last:
            self.runs, self.index = self.runs + 1, 0
        elif timestep < self._last:
            self.index += 1
        self._last, self.count = timestep, max(self.count, self.index + 1)

    @property
    def fraction(self) -> float:
        """Of the run's steps, how many are over. Raises UserError where nobody knows how many there are."""
        steps = self._steps()
        if steps is None:
            raise UserError("how many steps a run makes is not known; give steps= to apply")
        return min(self.index, steps - 1) / steps


class _Call(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    causal: bool
    scale: float


def _call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> _Call:
    """The arguments of `scaled_dot_product_attention`."""
    if dropout_p:
        raise InputError("attention with dropout is computed by no plan; set the model to eval()")
    return _Call(query, key, value, attn_mask, is_causal, query.shape[-1] ** -0.5 if scale is None else scale)


class _Handing(TorchFunctionMode):
    """Hands attention products to `take`; torch computes those for which it gives None."""

    def __init__(self, take: Callable[[_Call], Tensor | None]) -> None:
        super().__init__()
        self.take, self.seen = take, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.seen += 1
        taken = self.take(_call(*args, **kwargs))
        return func(*args, **kwargs) if taken is None else taken


_OWN = "_sparsecc_own"  # of a processor that hands its product on: the one in whose place it stands


@functools.cache
def _handing(kind: type) -> type:
    """A kind of processor that hands its product on to its `take`."""

    @functools.wraps(kind.__call__)  # a model passes on the arguments that the signature names
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _Handing(self.take) as handing:
            result = kind.__call__(self, *args, **kwargs)
        if not handing.seen:
            raise UserError(f"{kind.__name__} does not call scaled_dot_product_attention, so that no plan can be played in its place")
        return result

    return type(f"Planned{kind.__name__}", (kind,), {"__call__": call})


def _install(modules: Mapping[str, Any], takes: Mapping[str, Callable[[_Call], Tensor | None]]) -> None:
    for name in takes:
        own = modules[name].get_processor()
        if isinstance(own, nn.Module):
            raise UserError(f"attention '{name}' has a processor with weights, {type(own).__name__}; unload it first")
        if getattr(own, "_parallel_config", None) is not None:
            raise UserError(f"attention '{name}' divides its tokens among devices, where no plan can be played")
    for name, take in takes.items():
        own = modules[name].get_processor()
        made = copy.copy(own)
        made.__class__ = _handing(type(own))
        made.take = take
        setattr(made, _OWN, own)
        if hasattr(own, "_attention_backend"):
            made._attention_backend = AttentionBackendName.NATIVE
        modules[name].set_processor(made)


def _transformer(model: Any) -> nn.Module:
    found = getattr(model, "transformer", model)
    found = getattr(found, "_orig_mod", found)  # of torch.compile
    if not isinstance(found, nn.Module):
        raise UserError(f"{type(model).__name__} is neither a transformer of diffusers nor a pipeline with one")
    return found


def _counter(model: Any, steps: int | None) -> Callable[[], int | None]:
    """How many steps a run makes; a pipeline knows once it has begun."""
    return lambda: steps if steps is not None else getattr(model, "num_timesteps", None)


def _sizes(module: Any) -> tuple[int, int]:
    """heads, head_dim"""
    return module.heads, module.inner_dim // module.heads


def _require_made_for(plan: Plan, modules: Mapping[str, Any]) -> None:
    sizes = {name: _sizes(module) for name, module in modules.items()}
    for planned in plan.planned:
        if planned.site not in sizes:
            raise RecipeError(f"plan: made for another model, which had an attention '{planned.site}'")
        if planned.map.heads != sizes[planned.site][0]:
            raise RecipeError(f"plan: attention '{planned.site}' has {sizes[planned.site][0]} heads, the plan {planned.map.heads}")
    if plan.model != fingerprint((name, *found) for name, found in sizes.items()):
        raise RecipeError("plan: made for another model: its attention has other names, heads or sizes; record again")
