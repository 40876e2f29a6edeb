"""Block by block, the pruned model learns to give what the dense one gives there: no more than one block learns at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from sparsecc.errors import UserError
from sparsecc.graph.base import Block, Differentiable, Graph
from sparsecc.graph.sites import WeightSite
from sparsecc.passes import _checkpoint
from sparsecc.passes._distill import Distilled, Plan, State, key_of
from sparsecc.passes.base import Progress


def distill_blocks(
    graph: Differentiable,
    original: Differentiable,
    sites: Sequence[WeightSite],
    inputs: Sequence[tuple[Tensor, ...]],
    plan: Plan,
    checkpoint: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[Distilled]:
    """For each block that has sites, what it has learnt, by Adam on ‖y − y'‖² / ‖y‖² of what leaves it: y in the dense model, y' in
    the pruned one, whose blocks before it have learnt already (Li et al., BRECQ, 2021, for quantization).

    plan: of each block; its indices are of `inputs`, all of which lie in memory as they enter a block, in both models.  checkpoint: a
    file that holds the blocks that are done; the same call goes on after them.
    Raises UserError where the file is of another call, and where the models have other blocks.
    """
    working = graph.copy()
    done = _Done.of(sites, original, inputs, plan, checkpoint)
    by_name, seen = {site.name: site for site in sites}, 0
    for ours, theirs in zip(working.blocks(inputs), original.blocks(inputs), strict=True):
        if ours.sites != theirs.sites:
            raise UserError(f"the dense model has other blocks: {', '.join(theirs.sites)} where this one has {', '.join(ours.sites)}")
        taught = [by_name[name] for name in ours.sites if name in by_name]
        if not taught:
            continue

        def tell(step: int, error: float, before: float, seen: int = seen, taught: Sequence[WeightSite] = taught) -> None:
            if progress is not None:
                at, whole = seen * plan.steps + step * len(taught), len(sites) * plan.steps
                progress(Progress("distillation by blocks", at, whole, f"{taught[-1].name}, error {error:.3f} of {before:.3f}"))

        found = done.of_block(taught)
        if found is None:
            found = _learnt(ours, theirs, taught, len(inputs), plan, tell)
            done.add(found)
        for site in taught if found.after < found.before else ():
            working.set_weight(site, found.weights[site.name])
            if site.name in found.biases:
                working.set_bias(site, found.biases[site.name])
        seen += len(taught)
        yield found


def _learnt(
    ours: Block, theirs: Block, sites: Sequence[WeightSite], count: int, plan: Plan, tell: Callable[[int, float, float], None]
) -> Distilled:
    state, device = State.of(sites, ""), sites[0].weight.device.type
    with torch.no_grad():
        wanted = [theirs.run(index, {}) for index in range(count)]

    def error() -> float:
        """‖y − y'‖ / ‖y‖ on the inputs held out."""
        with torch.no_grad():
            apart = sum(float(_apart(ours.run(index, state.given()), wanted[index])) for index in plan.held)
        whole = sum(float(_square(wanted[index])) for index in plan.held)
        return math.sqrt(apart / whole) if whole else 0.0

    state.before = state.best = error()
    for step in range(plan.steps if state.before else 0):
        index = plan.index(step)
        with torch.autocast(device, torch.bfloat16, enabled=plan.dtype == "bfloat16"):
            found = ours.run(index, state.given())
        loss = _apart(found, wanted[index]) / _square(wanted[index]).clamp(min=1e-30)
        torch.autograd.backward(loss, inputs=list(state.tensors().values()))
        state.move(plan.rate(step))
        if plan.looks(step):
            state.judge(error())
        tell(step + 1, state.best, state.before)
    return state.found()


def _apart(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    return _square([y.float() - z.float() for y, z in zip(found, wanted, strict=True)])


def _square(tensors: Sequence[Tensor]) -> Tensor:
    return sum((x.float().square().sum() for x in tensors), torch.zeros(()))


class _Done:
    """The blocks that have learnt, in a file where there is one."""

    def __init__(self, path: str | None, key: str, tensors: dict[str, Tensor], errors: dict[str, float]) -> None:
        self._path, self._key, self._tensors, self._errors = path, key, tensors, errors

    @classmethod
    def of(cls, sites: Sequence[WeightSite], original: Graph, inputs: Sequence[tuple[Tensor, ...]], plan: Plan, path: str | None) -> _Done:
        if path is None:
            return cls(None, "", {}, {})
        key = key_of(("blocks", plan), sites, original, inputs)
        done = cls(path, key, *(_checkpoint.load(path, key) or ({}, {})))
        done._save()  # a file that cannot be written is better known now
        return done

    def of_block(self, sites: Sequence[WeightSite]) -> Distilled | None:
        names = [site.name for site in sites]
        if any(f"weight.{name}" not in self._tensors for name in names):
            return None
        weights = {name: self._tensors[f"weight.{name}"].to(site.weight) for name, site in zip(names, sites, strict=True)}
        biases = {
            site.name: self._tensors[f"bias.{site.name}"].to(site.bias)
            for site in sites
            if site.bias is not None and f"bias.{site.name}" in self._tensors
        }
        return Distilled(weights, biases, *(self._errors[f"{when}.{names[0]}"] for when in ("before", "after")))

    def add(self, found: Distilled) -> None:
        if self._path is None:
            return
        self._tensors |= {f"weight.{name}": weight for name, weight in found.weights.items()}
        self._tensors |= {f"bias.{name}": bias for name, bias in found.biases.items()}
        first = next(iter(found.weights))
        self._errors |= {f"before.{first}": found.before, f"after.{first}": found.after}
        self._save()

    def _save(self) -> None:
        if self._path is not None:
            _checkpoint.save(self._path, self._key, self._tensors, self._errors)
