"""How a model's outputs move with each weight: gradients without labels, for criteria that weigh what a change costs the whole model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from sparsecc.calibration.context import Context
from sparsecc.errors import RecipeError
from sparsecc.graph.base import Differentiable, Graph
from sparsecc.graph.sites import WeightSite
from sparsecc.ranks.work import blocks
from sparsecc.ranks.world import world

SAMPLES = 128  # gradients of each site
_SUMMED = 32  # where only sums over rows are wanted
FEWEST = 16  # of a site whose gradients would not fit _BYTES
_BYTES = 2**30  # of gradients that are held at once


def gradients(graph: Graph, sites: Sequence[WeightSite], context: Context) -> Iterator[tuple[WeightSite, Tensor | None]]:
    """Each site, in order, with float32[samples, rows, cols]: gradients by its matrix; None where no output depends on it.

    A sample is one calibration input and one ε ~ N(0, I) in the shape of the outputs y; its loss is <ε, y> / ‖y‖, summed over the outputs.
    So the mean of ggᵀ is JᵀJ / ‖y‖² in expectation, J = dy/dw, the second-order term of ‖y - y'‖² / ‖y‖²: the Fisher information of a
    model that gives y with Gaussian noise. Inputs are used equally often, evenly spaced ones where there are more than samples.

    Sites are measured in groups, as many as `_BYTES` hold. Raises RecipeError where the host has no gradients.
    """
    graph = _require_gradients(graph)
    assert context.calibration is not None
    for group, samples in _groups(sites):
        found = {site.name: torch.zeros(samples, site.rows, site.cols, device=site.weight.device) for site in group}
        reached: set[str] = set()
        for place, site, gradient in _measured(graph, group, samples, context.calibration, context.seed):
            reached.add(site.name)
            found[site.name][place] = gradient
        yield from _of_all_ranks(group, found, reached)


def effects(graph: Graph, sites: Sequence[WeightSite], context: Context) -> Iterator[tuple[WeightSite, Tensor | None]]:
    """Each site, in order, with Σ_j E g_ij², float64[rows], over such gradients, none of which is kept; None where no output depends on it.

    For all weights of a row alike it is the diagonal of the Fisher information, so that the row's errors weigh by it.
    """
    graph = _require_gradients(graph)
    assert context.calibration is not None
    found = {site.name: torch.zeros(_SUMMED, site.rows, dtype=torch.float64, device=site.weight.device) for site in sites}
    reached: set[str] = set()
    for place, site, gradient in _measured(graph, sites, _SUMMED, context.calibration, context.seed):
        reached.add(site.name)
        found[site.name][place] = gradient.double().square().sum(1) / _SUMMED
    for site, rows in _of_all_ranks(sites, found, reached):
        yield site, None if rows is None else reduce(torch.add, rows)  # one sample after the other


def _of_all_ranks(sites: Sequence[WeightSite], found: dict[str, Tensor], reached: set[str]) -> Iterator[tuple[WeightSite, Tensor | None]]:
    """Each site with what all ranks have measured, each its block of the samples on the first axis; None where no rank had a gradient."""
    everywhere = {name for part in world().exchange("gradients", reached) for name in part}
    for site in sites:
        whole = found.pop(site.name)
        if site.name not in everywhere:
            yield site, None
            continue
        places = blocks(len(whole))
        own = whole[places[world().rank]]
        for place, part in zip(places, world().in_turn(f"gradients of '{site.name}'", {"own": own}), strict=True):
            whole[place] = part["own"]
        yield site, whole


def _groups(sites: Sequence[WeightSite]) -> Iterator[tuple[list[WeightSite], int]]:
    """Sites that are measured together, and how many samples."""
    group: list[WeightSite] = []
    for site in sites:
        if group and _bytes([*group, site]) > _BYTES:
            yield group, _samples(group)
            group = []
        group.append(site)
    if group:
        yield group, _samples(group)


def _samples(group: Sequence[WeightSite]) -> int:
    return min(SAMPLES, max(FEWEST, SAMPLES * _BYTES // _bytes(group)))


def _bytes(group: Sequence[WeightSite]) -> int:
    return SAMPLES * sum(site.rows * site.cols for site in group) * torch.float32.itemsize


def _require_gradients(graph: Graph) -> Differentiable:
    if not isinstance(graph, Differentiable):
        raise RecipeError("criterion: this one needs gradients, which an ONNX model does not give; take sparsegpt, or give the torch model")
    return graph


def _measured(
    graph: Differentiable, sites: Sequence[WeightSite], samples: int, inputs: Sequence[Any], seed: int
) -> Iterator[tuple[int, WeightSite, Tensor]]:
    """The number of each of this rank's samples with each site that the outputs depend on, and the gradient by its matrix,
    float32[rows, cols]. Every rank runs the model on all inputs, and draws what all do, so that it draws what one process would."""
    own = range(samples)[blocks(samples)[world().rank]]
    weights = {site.name: site.weight.detach().requires_grad_() for site in sites}
    generator = torch.Generator().manual_seed(seed)
    for which, places in groupby(range(samples), lambda sample: sample * len(inputs) // samples):
        with torch.enable_grad():
            outputs = graph.run_with(inputs[which], {name: (weight, None) for name, weight in weights.items()}).outputs
        outputs = [y for y in outputs if y.requires_grad]
        for place in places if outputs else ():
            directions = [torch.randn(y.shape, generator=generator).to(y) / y.detach().norm().clamp(min=1e-30) for y in outputs]
            if place not in own:
                continue
            by_weight = torch.autograd.grad(outputs, list(weights.values()), directions, retain_graph=True, allow_unused=True)
            for site, gradient in zip(sites, by_weight, strict=True):
                if gradient is not None:
                    yield place, site, site.to_matrix(gradient).float()
