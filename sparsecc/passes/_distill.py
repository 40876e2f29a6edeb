"""The pruned model learns from the dense one what to give, all layers at once, by gradient descent on the kept weights; no labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsecc.graph.base import Differentiable, Run
from sparsecc.graph.sites import WeightSite

Inputs = Sequence[Any] | Mapping[str, Any]
_WARMUP = 0.05  # of the steps
_LOOKS = 20  # at the samples held out, on the way


@dataclass(frozen=True)
class Distilled:
    """weights, biases: by site name.  before, after: ‖y − y'‖ / ‖y‖ of the model's outputs on the samples held out."""

    weights: dict[str, Tensor]
    biases: dict[str, Tensor]
    before: float
    after: float


def distill(
    graph: Differentiable,
    original: Differentiable,
    sites: Sequence[WeightSite],
    samples: Sequence[Inputs],
    fitted: Sequence[int],
    held: Sequence[int],
    steps: int,
    learning_rate: float,
    seed: int,
) -> Distilled:
    """Adam (Kingma and Ba 2015) with a cosine schedule, one sample a step; the best of `_LOOKS` states on what is held out.

    The loss is the mean of ‖y − y'‖² / ‖y‖² over the outputs of the model and over what enters each of the sites: the layers inside
    learn from the dense model's own (Jiao et al., TinyBERT, 2020), so that a few hundred samples are enough.
    """
    taps = [site.name for site in sites]
    wanted = [original.run(sample, taps) for sample in samples]
    keep = {site.name: site.weight != 0 for site in sites}
    weights = {site.name: site.weight.detach().clone().requires_grad_() for site in sites}
    biases = {site.name: site.bias.detach().clone().requires_grad_() for site in sites if site.bias is not None}

    def state() -> dict[str, tuple[Tensor, Tensor | None]]:
        return {name: (weight * keep[name], biases.get(name)) for name, weight in weights.items()}

    def held_out() -> float:
        with torch.no_grad():
            runs = [(graph.run_with(samples[i], state()), wanted[i]) for i in held]
        apart = sum(_square(y - z) for run, want in runs for y, z in zip(run.outputs, want.outputs, strict=True) if z.is_floating_point())
        whole = sum(_square(z) for _, want in runs for z in want.outputs if z.is_floating_point())
        return math.sqrt(float(apart) / float(whole)) if whole else 0.0

    def snapshot() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {name: weight.detach() for name, (weight, _) in state().items()}, {name: b.detach().clone() for name, b in biases.items()}

    best, found = held_out(), snapshot()
    before = best
    adam = torch.optim.Adam([*weights.values(), *biases.values()], lr=learning_rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: _share(step, steps))
    for step, i in enumerate(_order(fitted, steps, seed), 1):
        loss = _loss(graph.run_with(samples[i], state(), taps), wanted[i])
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        if step % max(steps // _LOOKS, 1) == 0 or step == steps:
            now = held_out()
            if now < best:
                best, found = now, snapshot()
    return Distilled(*found, before, best)


def _loss(run: Run, wanted: Run) -> Tensor:
    pairs = [(y, z) for y, z in zip(run.outputs, wanted.outputs, strict=True) if z.is_floating_point()]
    inner = [(run.taps[name][0], z) for name, (z, *_) in wanted.taps.items()]
    return _mean([_relative(y, z) for y, z in pairs]) + _mean([_relative(y, z) for y, z in inner])


def _relative(y: Tensor, z: Tensor) -> Tensor:
    return _square(y - z) / _square(z).clamp(min=1e-30)


def _square(x: Tensor) -> Tensor:
    return x.float().square().sum()


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def _share(step: int, steps: int) -> float:
    """Of the learning rate."""
    warm = max(_WARMUP * steps, 1)
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0))))


def _order(indices: Sequence[int], steps: int, seed: int) -> Iterator[int]:
    """Every sample once before any comes again."""
    generator, left = torch.Generator().manual_seed(seed), steps
    while left > 0:
        for i in torch.randperm(len(indices), generator=generator).tolist()[:left]:
            yield indices[i]
        left -= len(indices)
