"""Block by block, the pruned model learns to give what the dense one gives there: no more than one block learns at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from sparsecc.calibration.context import Progress
from sparsecc.errors import Refused, UserError
from sparsecc.graph.base import Block, Differentiable
from sparsecc.graph.sites import WeightSite
from sparsecc.recovery import checkpoint as checkpoints
from sparsecc.recovery.schedule import Learnt, Schedule, State, error_of, key_of, mean_square, relative

Told = Callable[[int, State], None]


def distill_blocks(
    graph: Differentiable,
    original: Differentiable,
    sites: Sequence[WeightSite],
    inputs: Sequence[tuple[Tensor, ...]],
    schedule: Schedule,
    checkpoint: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[tuple[list[WeightSite], Learnt | Refused]]:
    """For each block those of the sites that it has, and what they have learnt, by Adam on ‖y − y'‖² / ‖y‖² of what leaves it: y in
    the dense model, y' in the pruned one, whose blocks before it have learnt already (Li et al., BRECQ, 2021, for quantization).

    schedule: of each block; its indices are of `inputs`, all of which lie in memory as they enter a block, in both models.  checkpoint: a
    path to which .0, .1, ... is added: a file for each block that is done; the same call goes on after them.
    Raises UserError where a file is of another call, and where the models have other blocks.
    """
    working, by_name = graph.copy(), {site.name: site for site in sites}
    key = "" if checkpoint is None else key_of(("blocks", schedule), sites, (graph, original), inputs)
    seen = 0
    for number, (ours, theirs) in enumerate(zip_longest(working.blocks(inputs), original.blocks(inputs))):
        if ours is None or theirs is None or ours.sites != theirs.sites:
            raise UserError(f"the dense model has other blocks: {_named(theirs)} where this one has {_named(ours)}")
        taught = [by_name[name] for name in ours.sites if name in by_name]
        if not taught:
            continue
        path = None if checkpoint is None else f"{checkpoint}.{number}"
        found = None if path is None else _loaded(path, key, taught[0].weight.device)
        if found is None:
            found = _learnt(ours, theirs, taught, len(inputs), schedule, _tells(progress, schedule, len(sites), seen, taught))
            if path is not None and isinstance(found, Learnt):
                _save(path, key, found)
        if isinstance(found, Learnt) and found.after < found.before:
            for site in taught:
                working.set_weight(site, found.weights[site.name])
                if site.bias is not None:
                    working.set_bias(site, found.biases[site.name])
        yield taught, found
        seen += len(taught)
        if seen == len(sites):  # what follows stays as it is
            return


def _named(block: Block | None) -> str:
    return "none" if block is None else " and ".join(block.sites)


def _tells(
    progress: Callable[[Progress], None] | None, schedule: Schedule, total: int, seen: int, taught: Sequence[WeightSite]
) -> Callable[[int, State], None]:
    def tell(step: int, state: State) -> None:
        if progress is not None:
            note = f"{taught[-1].name}, error {state.best:.3f} of {state.before:.3f}"
            progress(Progress("distillation by blocks", seen * schedule.steps + step * len(taught), total * schedule.steps, note))

    return tell


def _learnt(ours: Block, theirs: Block, sites: Sequence[WeightSite], count: int, schedule: Schedule, tell: Told) -> Learnt | Refused:
    with torch.no_grad():
        wanted = [theirs.run(index, {}) for index in range(count)]
        given = ours.run(schedule.held[0], {})
    if not given:
        return Refused("its block gives nothing in floating point to learn from")
    if other := [(y, z) for y, z in zip(given, wanted[schedule.held[0]], strict=True) if y.shape != z.shape]:
        y, z = other[0]
        return Refused(f"its block gives {tuple(y.shape)} where the dense model's gives {tuple(z.shape)}; distillation can recover it")
    if not all(y.isfinite().all() for outputs in (given, *wanted) for y in outputs):
        return Refused("what its block gives holds NaN or infinity")
    state, device = State.of(sites), sites[0].weight.device.type
    levels = [mean_square(ys) for ys in zip(*wanted, strict=True)]

    def error() -> float:
        with torch.no_grad():
            outputs = [ours.run(index, state.given()) for index in schedule.held]
        held = zip(schedule.held, outputs, strict=True)
        return error_of(pair for index, found in held for pair in zip(found, wanted[index], strict=True))

    state.before = state.best = error()
    if not state.before:
        return Refused("its block gives what it gave in the dense model")
    for step in range(schedule.steps):
        index = schedule.index(step)
        with torch.autocast(device, torch.bfloat16, enabled=schedule.dtype == "bfloat16"):
            found = ours.run(index, state.given())
        loss = torch.stack([relative(*triple) for triple in zip(found, wanted[index], levels, strict=True)]).mean()
        torch.autograd.backward(loss, inputs=list(state.tensors().values()))
        state.move(schedule.rate(step))
        if schedule.looks(step):
            state.judge(error())
        tell(step + 1, state)
    return state.found()


def _save(path: str, key: str, found: Learnt) -> None:
    weights, biases = ({f"{kind}.{name}": x for name, x in of.items()} for kind, of in (("weight", found.weights), ("bias", found.biases)))
    checkpoints.save(path, key, {**weights, **biases}, {"before": found.before, "after": found.after})


def _loaded(path: str, key: str, device: torch.device) -> Learnt | None:
    loaded = checkpoints.load(path, key)
    if loaded is None:
        return None
    tensors, errors = loaded
    weights, biases = (
        {name.removeprefix(kind): x.to(device) for name, x in tensors.items() if name.startswith(kind)} for kind in ("weight.", "bias.")
    )
    return Learnt(weights, biases, errors["before"], errors["after"])
