"""What criteria and structures want to know about the inputs of a site, measured by running the model on calibration inputs.

All samples go through the model side by side, once: what a site is told comes from the sites before it as they are by then, pruned ones
included, and what lies in memory are the activations between two layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsecc.calibration.context import Context
from sparsecc.calibration.gradients import effects, gradients
from sparsecc.criteria.base import ALL_ZERO, OF_GRADIENTS, STATISTICS, UNREACHED, Stats
from sparsecc.errors import RecipeError, Refused, SparseccError
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Conv2d, WeightSite

_ROWS = 4096  # inputs that are multiplied together at once, at most


def calibrated(graph: Graph, sites: Sequence[WeightSite], needs: Sequence[str], context: Context) -> Iterator[tuple[WeightSite, Stats]]:
    """Each site, in execution order, with the statistics that are needed of its inputs; none where no calibration input reaches it.

    Weights that are set on the graph meanwhile count for the sites that follow, save that gradients are those of the graph as it came.
    Raises RecipeError where there is nothing to calibrate on, or no gradients are to be had.
    """
    if unknown := [need for need in needs if need not in STATISTICS]:
        raise SparseccError(f"no statistic is called {unknown[0]!r}; there are: {', '.join(STATISTICS)}")
    if not context.calibration:
        raise RecipeError("criterion: this one needs calibration inputs; pass calibration= (--calib)")
    of_inputs = [need for need in needs if need not in OF_GRADIENTS]
    measured = _entering(graph, sites, of_inputs, context) if of_inputs else ((site, {}) for site in sites)
    for need, of in (("effects", effects), ("gradients", gradients)):
        if need in needs:
            measured = _joined(measured, need, of(graph.copy(), sites, context), bool(of_inputs))
    yield from measured


def _joined(
    measured: Iterator[tuple[WeightSite, Stats]], need: str, found: Iterator[tuple[WeightSite, Tensor | None]], reached: bool
) -> Iterator[tuple[WeightSite, Stats]]:
    """With one statistic more.  reached: whether a site without statistics is one that no input reaches."""
    for (site, stats), (twin, tensor) in zip(measured, found, strict=True):
        assert site.name == twin.name
        yield site, {} if tensor is None or (reached and not stats) else {**stats, need: tensor}


def _entering(graph: Graph, sites: Sequence[WeightSite], needs: Sequence[str], context: Context) -> Iterator[tuple[WeightSite, Stats]]:
    """`calibrated`, for statistics of inputs."""
    assert context.calibration is not None
    by_name = {site.name: site for site in sites}
    known: tuple[tuple[Any, ...], Stats] | None = None
    for name, entering in graph.walk(context.calibration, list(by_name)):
        site, tensors = by_name[name], [x for (x,) in entering]
        # q, k and v read the same tensors, which are alive until all of them have
        key = tuple((x.data_ptr(), x.shape, x.stride()) for x in tensors) if not isinstance(site, Conv2d) else ()
        if known is None or not key or known[0] != key:
            known = key, statistics((as_columns(site, x) for x in tensors), needs)
        yield site, known[1]


def statistics(columns: Iterable[Tensor], needs: Sequence[str]) -> Stats:
    """columns: float[tokens, cols], what the matrix is multiplied with in each sample; nothing of them is kept but "inputs"."""
    tokens, kept = 0, []
    squares: Any = 0.0
    products: Any = 0.0
    mean: Any = 0.0
    moved: Any = 0.0  # Σ (x - mean)², merged piece by piece (Chan, Golub and LeVeque 1983)
    for rows in _together(columns):
        before, tokens = tokens, tokens + len(rows)
        x = rows.double()
        if "inputs" in needs:
            kept.append(rows)
        if "norms" in needs:
            squares += x.square().sum(0)
        if "hessian" in needs:
            products += x.T @ x
        if "means" in needs or "variances" in needs:
            apart = x.mean(0) - mean
            moved += (x - x.mean(0)).square().sum(0) + apart.square() * (before * len(x) / tokens)
            mean += apart * (len(x) / tokens)
    if not tokens:
        return {}
    found = {
        "inputs": lambda: torch.cat(kept),
        "norms": lambda: squares.sqrt(),
        "hessian": lambda: products / tokens,
        "means": lambda: mean,
        "variances": lambda: moved / tokens,
        "tokens": lambda: torch.tensor(tokens),
    }
    return {need: made() for need, made in found.items() if need in needs}


def second_moments(graph: Graph, sites: Sequence[WeightSite], context: Context) -> Iterator[Stats]:
    """Per site, in order, its `hessian` and `tokens`; {} without any inputs."""
    if not context.calibration:
        yield from [{}] * len(sites)
        return
    for _, stats in calibrated(graph, sites, ("hessian", "tokens"), context):
        yield stats


def largest_inputs(graph: Graph, sites: Sequence[WeightSite], context: Context) -> dict[str, float | Refused]:
    """Per site name the largest magnitude that enters it in any calibration input; refused where there is none above zero, or no number."""
    largest: dict[str, float | Refused] = {site.name: Refused(UNREACHED) for site in sites}
    for name, entering in graph.walk(context.calibration or (), list(largest)):
        found = [x.abs().max() for (x,) in entering if x.numel()]
        if found:
            largest[name] = _range(float(torch.stack(found).max()))
    return largest


def _range(largest: float) -> float | Refused:
    if not math.isfinite(largest):
        return Refused("its calibration inputs hold NaN or infinity")
    return largest if largest > 0 else Refused(ALL_ZERO)


def as_columns(site: WeightSite, x: Tensor) -> Tensor:
    """float[tokens, cols]: what the site's matrix is multiplied with, one row per output position."""
    if not isinstance(site, Conv2d):
        return x.reshape(-1, site.cols).float()
    channels, taps = site.shape[1], math.prod(site.kernel)
    top, left, bottom, right = site.padding
    padded = torch.nn.functional.pad(site.images(x).float(), (left, right, top, bottom))
    patches = torch.nn.functional.unfold(padded, site.kernel, dilation=site.dilation, stride=site.stride)
    # unfold has channels outermost, the matrix has them innermost
    return patches.transpose(1, 2).reshape(-1, channels, taps).transpose(1, 2).reshape(-1, site.cols)


def relative_error(weight: Tensor, other: Tensor, covariance: Tensor | None) -> float:
    """‖(W − W')X‖ / ‖WX‖ for XᵀX/n = covariance, ‖W − W'‖ / ‖W‖ for None. 0 when W, or every output, is zero."""
    whole, apart = (_power(matrix, covariance) for matrix in (weight.float(), weight.float() - other.float()))
    return (max(0.0, apart) / whole) ** 0.5 if whole > 0 else 0.0


def _power(matrix: Tensor, covariance: Tensor | None) -> float:
    """tr(M H Mᵀ), H = I for None. In fp32: the products cost more than a projection."""
    through = matrix if covariance is None else matrix @ covariance.float()
    return float((through * matrix).double().sum())


def _together(columns: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same rows in pieces of about _ROWS: large enough for a matrix product to be fast, small enough for a copy."""
    waiting: list[Tensor] = []
    for x in (piece for whole in columns for piece in whole.split(_ROWS) if len(piece)):
        if waiting and sum(map(len, waiting)) + len(x) > _ROWS:
            yield torch.cat(waiting)
            waiting = []
        waiting.append(x)
    if waiting:
        yield torch.cat(waiting)
