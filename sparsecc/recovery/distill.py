"""The pruned model learns from the dense one what to give, all layers at once, by gradient descent on the kept weights; no labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecc.calibration.context import Progress
from sparsecc.calibration.variations import Varied
from sparsecc.errors import UserError
from sparsecc.graph.base import Differentiable, Run
from sparsecc.graph.sites import WeightSite
from sparsecc.recovery.schedule import Learnt, Schedule, State, error_of, key_of, mean_square, relative


@dataclass(frozen=True)
class Lessons(Schedule):
    """variations: of every variations + 1 steps one takes a sample as it is, the others one like it."""

    variations: int

    def inputs(self, step: int, samples: Varied) -> tuple[Tensor, ...]:
        index = self.index(step)
        if step % (self.variations + 1) == 0:
            return samples.samples[index]
        return samples.make(index, self.seed * 1_000_003 + step, self.fitted)


def distill(
    graph: Differentiable,
    original: Differentiable,
    sites: Sequence[WeightSite],
    samples: Varied,
    lessons: Lessons,
    checkpoint: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Learnt:
    """Adam (Kingma and Ba 2015), one sample a step; the best of several states on what is held out.

    The loss is the mean of ‖y − y'‖² / ‖y‖² over the outputs of the model and over what enters each of the sites that have all their
    inputs: the layers inside learn from the dense model's own (Jiao et al., TinyBERT, 2020), so that a few hundred samples are enough.

    checkpoint: a file that holds the state at the last look. The same call goes on from there, and gives what it would have given.
    Raises UserError where the file is of another call, and for a model without outputs of floating-point numbers or with NaN or infinity in
    them.
    """
    run = _Run(graph, original, sites, samples, lessons)
    key = "" if checkpoint is None else key_of(lessons, sites, (graph, original), samples.samples)
    if checkpoint is not None:
        run.state.load(checkpoint, key)
        run.state.save(checkpoint, key)  # a file that cannot be written is better known now
    for step in range(run.state.step, lessons.steps):
        run.take(step)
        if lessons.looks(step):
            run.look()
            if checkpoint is not None:
                run.state.save(checkpoint, key)
        if progress is not None:
            progress(Progress("distillation", step + 1, lessons.steps, f"error {run.state.best:.3f} of {run.state.before:.3f}"))
    return run.state.found()


@dataclass(frozen=True)
class _Wanted:
    """What the dense model gives for samples, and how large that is as a rule, as mean squares: levels of what enters each site,
    output_levels of the outputs of floating-point numbers."""

    outputs: Sequence[Sequence[Tensor]]
    levels: Mapping[str, float]
    output_levels: Sequence[float]

    @classmethod
    def of(cls, original: Differentiable, samples: Sequence[tuple[Tensor, ...]], taps: Sequence[str]) -> _Wanted:
        outputs, entering = [], dict.fromkeys(taps, 0.0)
        for sample in samples:
            run = original.run(sample, taps)
            outputs.append(run.outputs)
            for tap in taps:
                entering[tap] += mean_square([run.taps[tap][0]]) / len(samples)
        floats = [[y for y in ys if y.is_floating_point()] for ys in outputs]
        if not any(floats):
            raise UserError("the model has no output of floating-point numbers, so that there is nothing to learn from")
        if not all(bool(y.isfinite().all()) for ys in floats for y in ys):
            raise UserError("the dense model gives NaN or infinity, which nothing can come near to; reconstruction looks at layers alone")
        return cls(outputs, entering, [mean_square(ys) for ys in zip(*floats, strict=True)])


class _Run:
    """One distillation: what each step does."""

    def __init__(
        self, graph: Differentiable, original: Differentiable, sites: Sequence[WeightSite], samples: Varied, lessons: Lessons
    ) -> None:
        self._graph, self._original, self._samples, self._lessons = graph, original, samples, lessons
        widths = {site.name: site.cols for site in original.sites(WeightSite)}
        self._taps = [site.name for site in sites if site.cols == widths[site.name]]  # others are given less than in the dense model
        self._wanted = _Wanted.of(original, [samples.samples[i] for i in lessons.held], self._taps)
        self._device = sites[0].weight.device.type
        self.state = State.of(sites)
        self.state.before = self.state.best = self._error()

    def take(self, step: int) -> None:
        inputs = self._lessons.inputs(step, self._samples)
        with torch.autocast(self._device, torch.bfloat16, enabled=self._lessons.dtype == "bfloat16"):
            wanted = self._original.run(inputs, self._taps)
            found = self._graph.run_with(inputs, self.state.given(), self._taps)
        loss = self._loss(found, wanted)
        if loss.isfinite():  # what a made-up input overflows would stay in all weights
            torch.autograd.backward(loss, inputs=list(self.state.tensors().values()))
            self.state.move(self._lessons.rate(step))
        else:
            self.state.step += 1

    def look(self) -> None:
        self.state.judge(self._error())

    def _loss(self, run: Run, wanted: Run) -> Tensor:
        found: dict[int, Tensor] = {}  # by the tensor, which several layers may read
        for name, (z, *_) in wanted.taps.items():
            if id(z) not in found:
                found[id(z)] = relative(run.taps[name][0], z, self._wanted.levels[name])
        inner = [found[id(z)] for z, *_ in wanted.taps.values()]
        pairs = zip(_floats(run.outputs, wanted.outputs), self._wanted.output_levels, strict=True)
        outer = _mean([relative(y, z, usual) for (y, z), usual in pairs])
        return outer + _mean(inner) if inner else outer

    def _error(self) -> float:
        """‖y − y'‖ / ‖y‖ on the samples held out."""
        with torch.no_grad():
            outputs = [self._graph.run_with(self._samples.samples[i], self.state.given()).outputs for i in self._lessons.held]
        return error_of(pair for ours, theirs in zip(outputs, self._wanted.outputs, strict=True) for pair in _floats(ours, theirs))


def _floats(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(y, z) for y, z in zip(ours, theirs, strict=True) if z.is_floating_point()]


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
