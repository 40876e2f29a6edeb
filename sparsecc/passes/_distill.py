"""The pruned model learns from the dense one what to give, all layers at once, by gradient descent on the kept weights; no labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparsecc.errors import UserError
from sparsecc.graph.base import Differentiable, Graph, Run
from sparsecc.graph.sites import WeightSite
from sparsecc.passes import _checkpoint
from sparsecc.passes._vary import Varied
from sparsecc.passes.base import Progress

_BETAS = 0.9, 0.95
_WARMUP = 0.05  # of the steps
_LOOKS = 20  # at the samples held out, on the way


@dataclass(frozen=True)
class Distilled:
    """weights, biases: by site name.  before, after: ‖y − y'‖ / ‖y‖ of the model's outputs on the samples held out."""

    weights: dict[str, Tensor]
    biases: dict[str, Tensor]
    before: float
    after: float


@dataclass(frozen=True)
class Plan:
    """fitted, held: indices of samples.  variations: of every variations + 1 steps one takes a sample as it is, the others one like it.
    dtype: of the matrix products of both models while learning."""

    steps: int
    learning_rate: float
    fitted: Sequence[int]
    held: Sequence[int]
    variations: int
    dtype: str
    seed: int

    def inputs(self, step: int, samples: Varied) -> tuple[Tensor, ...]:
        index = self.index(step)
        if step % (self.variations + 1) == 0:
            return samples.samples[index]
        return samples.make(index, self.seed * 1_000_003 + step, self.fitted)

    def index(self, step: int) -> int:
        """Of the sample. A function of the step alone, so that a run that was stopped goes on as it would have."""
        round_, place = divmod(step, len(self.fitted))
        order = torch.randperm(len(self.fitted), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + round_))
        return self.fitted[int(order[place])]

    def looks(self, step: int) -> bool:
        """Whether it is time to judge by the samples held out."""
        return (step + 1) % max(self.steps // _LOOKS, 1) == 0 or step + 1 == self.steps

    def rate(self, step: int) -> float:
        """Warm-up, then a cosine to zero."""
        warm = max(_WARMUP * self.steps, 1)
        return self.learning_rate * min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1.0))))


def distill(
    graph: Differentiable,
    original: Differentiable,
    sites: Sequence[WeightSite],
    samples: Varied,
    plan: Plan,
    checkpoint: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Distilled:
    """Adam (Kingma and Ba 2015), one sample a step; the best of `_LOOKS` states on what is held out.

    The loss is the mean of ‖y − y'‖² / ‖y‖² over the outputs of the model and over what enters each of the sites that have all their
    inputs: the layers inside learn from the dense model's own (Jiao et al., TinyBERT, 2020), so that a few hundred samples are enough.

    checkpoint: a file that holds the state at the last look. The same call goes on from there, and gives what it would have given.
    Raises UserError where the file is of another call, and for a model without outputs of floating-point numbers.
    """
    run = _Run(graph, original, sites, samples, plan)
    if checkpoint is not None:
        run.state.load(checkpoint)
        run.state.save(checkpoint)  # a file that cannot be written is better known now
    for step in range(run.state.step, plan.steps):
        run.take(step)
        if plan.looks(step):
            run.look()
            if checkpoint is not None:
                run.state.save(checkpoint)
        if progress is not None:
            progress(Progress("distillation", step + 1, plan.steps, f"error {run.state.best:.3f} of {run.state.before:.3f}"))
    return run.state.found()


class _Run:
    """One distillation: what each step does."""

    def __init__(self, graph: Differentiable, original: Differentiable, sites: Sequence[WeightSite], samples: Varied, plan: Plan) -> None:
        self._graph, self._original, self._samples, self._plan = graph, original, samples, plan
        widths = {site.name: site.cols for site in original.sites(WeightSite)}
        self._taps = [site.name for site in sites if site.cols == widths[site.name]]  # others are given less than in the dense model
        self._wanted = [original.run(samples.samples[i]).outputs for i in plan.held]
        if not any(y.is_floating_point() for outputs in self._wanted for y in outputs):
            raise UserError("the model has no output of floating-point numbers, so that there is nothing to learn from")
        self._device = sites[0].weight.device.type
        self.state = State.of(sites, key_of(plan, sites, original, samples.samples))
        self.state.before = self.state.best = self._error()

    def take(self, step: int) -> None:
        inputs = self._plan.inputs(step, self._samples)
        with torch.autocast(self._device, torch.bfloat16, enabled=self._plan.dtype == "bfloat16"):
            wanted = self._original.run(inputs, self._taps)
            found = self._graph.run_with(inputs, self.state.given(), self._taps)
        torch.autograd.backward(_loss(found, wanted), inputs=list(self.state.tensors().values()))
        self.state.move(self._plan.rate(step))

    def look(self) -> None:
        self.state.judge(self._error())

    def _error(self) -> float:
        """‖y − y'‖ / ‖y‖ on the samples held out."""
        with torch.no_grad():
            outputs = [self._graph.run_with(self._samples.samples[i], self.state.given()).outputs for i in self._plan.held]
        pairs = [pair for ours, theirs in zip(outputs, self._wanted, strict=True) for pair in _floats(ours, theirs)]
        whole = sum(float(_square(z)) for _, z in pairs)
        return math.sqrt(sum(float(_square(y - z)) for y, z in pairs) / whole) if whole else 0.0


@dataclass
class State:
    """What learns, and how far it is. weights, biases: what is learnt, by site, in float32.  dtypes: those of the layers.
    key: of the call that this is the state of.  step: how many are done.  before, best: errors on what is held out.
    kept: the weights and biases at `best`."""

    weights: dict[str, Tensor]
    biases: dict[str, Tensor]
    dtypes: dict[str, torch.dtype]
    key: str
    step: int = 0
    before: float = math.inf
    best: float = math.inf
    kept: tuple[dict[str, Tensor], dict[str, Tensor]] = field(init=False)
    zeros: dict[str, Tensor] = field(init=False)

    @classmethod
    def of(cls, sites: Sequence[WeightSite], key: str) -> State:
        weights = {site.name: _master(site.weight) for site in sites}
        biases = {site.name: _master(site.bias) for site in sites if site.bias is not None}
        return cls(weights, biases, {site.name: site.weight.dtype for site in sites}, key)

    def __post_init__(self) -> None:
        self.zeros = {name: weight.detach() == 0 for name, weight in self.weights.items()}
        self.kept = self.snapshot()
        self._adam = torch.optim.Adam(self.tensors().values(), betas=_BETAS, fused=True)

    def tensors(self) -> dict[str, Tensor]:
        return {**{f"weight.{name}": w for name, w in self.weights.items()}, **{f"bias.{name}": b for name, b in self.biases.items()}}

    def given(self) -> dict[str, tuple[Tensor, Tensor | None]]:
        return {
            name: (weight.to(self.dtypes[name]), self.biases[name].to(self.dtypes[name]) if name in self.biases else None)
            for name, weight in self.weights.items()
        }

    def move(self, rate: float) -> None:
        """One step of Adam on the gradients that are there. A zero never has a gradient, and so stays one."""
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad.masked_fill_(self.zeros[name], 0.0)
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()
        self._adam.zero_grad()
        self.step += 1

    def judge(self, error: float) -> None:
        """Keep what is learnt so far where its error is the least yet."""
        if error < self.best:
            self.best, self.kept = error, self.snapshot()

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        copies = ({name: t.detach().to(self.dtypes[name], copy=True) for name, t in of.items()} for of in (self.weights, self.biases))
        return next(copies), next(copies)

    def found(self) -> Distilled:
        return Distilled(*self.kept, self.before, self.best)

    def save(self, path: str) -> None:
        moments = {
            f"{moment}.{name}": self._adam.state[tensor][moment]
            for name, tensor in self.tensors().items()
            for moment in ("exp_avg", "exp_avg_sq")
            if tensor in self._adam.state
        }
        kept = {
            **{f"kept.weight.{name}": w for name, w in self.kept[0].items()},
            **{f"kept.bias.{name}": b for name, b in self.kept[1].items()},
        }
        numbers = {"step": self.step, "before": self.before, "best": self.best}
        _checkpoint.save(path, self.key, {**self.tensors(), **moments, **kept}, numbers)

    def load(self, path: str) -> None:
        """Nothing happens where there is no such file yet."""
        loaded = _checkpoint.load(path, self.key)
        if loaded is None:
            return
        tensors, numbers = loaded
        self.step, self.before, self.best = int(numbers["step"]), numbers["before"], numbers["best"]
        self.kept = (
            {name: tensors[f"kept.weight.{name}"] for name in self.weights},
            {name: tensors[f"kept.bias.{name}"] for name in self.biases},
        )
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(tensors[name])
                if f"exp_avg.{name}" in tensors:
                    moments = {moment: tensors[f"{moment}.{name}"].to(tensor.device) for moment in ("exp_avg", "exp_avg_sq")}
                    self._adam.state[tensor] = {"step": torch.tensor(float(self.step), device=tensor.device), **moments}


def key_of(setting: Any, sites: Sequence[WeightSite], original: Graph, samples: Sequence[Sequence[Tensor]]) -> str:
    """Of a call, for checkpoints."""
    names = {site.name for site in sites}
    own = [tensor for site in sites for tensor in (site.weight, site.bias) if tensor is not None]
    taught = [site.stored for site in original.sites(WeightSite) if site.name in names and isinstance(site.stored, Tensor)]
    return _checkpoint.key(setting, [*own, *taught, *(tensor for sample in samples for tensor in sample)])


def _master(tensor: Tensor) -> Tensor:
    """What is learnt of a weight: float32 and contiguous, which Adam's fused kernel counts on."""
    return tensor.detach().float().clone(memory_format=torch.contiguous_format).requires_grad_()


def _loss(run: Run, wanted: Run) -> Tensor:
    found: dict[int, Tensor] = {}  # by the tensor, which several layers may read
    for name, (z, *_) in wanted.taps.items():
        if id(z) not in found:
            found[id(z)] = _relative(run.taps[name][0], z)
    inner = [found[id(z)] for z, *_ in wanted.taps.values()]
    outer = _mean([_relative(y, z) for y, z in _floats(run.outputs, wanted.outputs)])
    return outer + _mean(inner) if inner else outer


def _floats(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(y, z) for y, z in zip(ours, theirs, strict=True) if z.is_floating_point()]


def _relative(y: Tensor, z: Tensor) -> Tensor:
    return _square(y.float() - z.float()) / _square(z).clamp(min=1e-30)


def _square(x: Tensor) -> Tensor:
    return x.float().square().sum()


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
