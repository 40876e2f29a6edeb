"""What criteria and structures want to know about the inputs of a site, measured by running the model on calibration inputs.

All samples go through the model side by side, once: what a site is told comes from the sites before it as they are by then, pruned ones
included, and what lies in memory are the activations between two layers. Ranks divide the samples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from sparsecc.calibration.context import Context
from sparsecc.calibration.gradients import effects, gradients
from sparsecc.calibration.sums import Sums
from sparsecc.criteria.base import ALL_ZERO, OF_GRADIENTS, STATISTICS, UNREACHED, Stats
from sparsecc.errors import RecipeError, Refused, SparseccError
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Conv2d, Linear, WeightSite
from sparsecc.ranks.work import turns
from sparsecc.ranks.world import world

Measured = list[tuple[WeightSite, Stats]]


def calibrated(graph: Graph, sites: Sequence[WeightSite], needs: Sequence[str], context: Context) -> Iterator[tuple[WeightSite, Stats]]:
    """Each site, in execution order, with the statistics that are needed of its inputs; none where no calibration input reaches it.

    Weights that are set on the graph meanwhile count for the sites that follow, save those of one group of `in_groups`, and save that
    gradients are those of the graph as it came. Raises what `in_groups` does.
    """
    for group in in_groups(graph, sites, needs, context):
        yield from group


def in_groups(graph: Graph, sites: Sequence[WeightSite], needs: Sequence[str], context: Context) -> Iterator[Measured]:
    """`calibrated`, with sites together that read one value: what is set in one of them changes nothing for the others.

    Raises RecipeError where there is nothing to calibrate on, or no gradients are to be had.
    """
    if unknown := [need for need in needs if need not in STATISTICS]:
        raise SparseccError(f"no statistic is called {unknown[0]!r}; there are: {', '.join(STATISTICS)}")
    if not context.calibration:
        raise RecipeError("criterion: this one needs calibration inputs; pass calibration= (--calib)")
    of_inputs = [need for need in needs if need not in OF_GRADIENTS]
    found = None if context.known is None else _known(sites, of_inputs, context.known)
    measured = found or (_entering(graph, sites, of_inputs, context) if of_inputs else _unmeasured(sites))
    for need, of in (("effects", effects), ("gradients", gradients)):
        if need in needs:
            measured = _joined(measured, need, of(graph.copy(), sites, context), bool(of_inputs))
    yield from measured


def _known(sites: Sequence[WeightSite], needs: Sequence[str], known: Mapping[str, Stats]) -> Iterator[Measured] | None:
    """From what is known of the model as it came; None where that is not all."""
    if not all(site.name in known and (not known[site.name] or known[site.name].keys() >= {*needs}) for site in sites):
        return None
    found: Measured = [(site, {need: known[site.name][need] for need in needs if known[site.name]}) for site in sites]
    return ([one] for one in found)


def _unmeasured(sites: Sequence[WeightSite]) -> Iterator[Measured]:
    for site in sites:
        yield [(site, {})]


def work_in(known: tuple[WeightSite, Stats]) -> float:
    """By what ranks divide the layers that are pruned or rounded by their statistics: as many steps as a Hessian and its use take."""
    site, _ = known
    return float(site.cols**2 * (site.rows + site.cols))


def _joined(
    measured: Iterator[Measured], need: str, found: Iterator[tuple[WeightSite, Tensor | None]], reached: bool
) -> Iterator[Measured]:
    """With one statistic more.  reached: whether a site without statistics is one that no input reaches."""
    for group in measured:
        joined: Measured = []
        for (site, stats), (twin, tensor) in zip(group, islice(found, len(group)), strict=True):
            assert site.name == twin.name
            joined.append((site, {} if tensor is None or (reached and not stats) else {**stats, need: tensor}))
        yield joined


def _entering(graph: Graph, sites: Sequence[WeightSite], needs: Sequence[str], context: Context) -> Iterator[Measured]:
    """`in_groups`, for statistics of inputs."""
    assert context.calibration is not None
    samples, pieces = _own(context.calibration)
    groups = {group[0].name: group for group in _reading_one_value(graph, sites)}
    known: tuple[tuple[Any, ...], Stats] | None = None
    for name, entering in graph.walk(samples, list(groups)):
        site, tensors = groups[name][0], [x for (x,) in entering]
        # layers may read the same tensor by way of different nodes; it is alive until all of them have
        key = tuple((x.data_ptr(), x.shape, x.stride()) for x in tensors) if not isinstance(site, Conv2d) else ()
        same = known is not None and bool(key) and known[0] == key
        if known is None or not all(world().exchange(f"inputs of '{name}'", same)):  # tensors without tokens are alike on one rank
            known = key, _summed(name, ((as_columns(site, tensors[i]) for i in piece) for piece in pieces), needs)
        yield [(each, known[1]) for each in groups[name]]


def _reading_one_value(graph: Graph, sites: Sequence[WeightSite]) -> list[list[WeightSite]]:
    """Sites in their order, those together that follow each other and read one value, as q, k and v do."""
    found: list[list[WeightSite]] = []
    last: Hashable = None
    for site in sites:
        source = graph.source(site) if isinstance(site, Linear) and site.form is None else None
        if source is not None and source == last:
            found[-1].append(site)
        else:
            found.append([site])
        last = source
    return found


def _own(calibration: Sequence[Any]) -> tuple[list[Any], list[range]]:
    """The samples that this rank runs the model on, and for each of its turns which of these it sums up.

    A rank for which none are left runs one all the same: it has to see which layers read the same tensor."""
    samples, pieces = [], list[range]()
    for turn in turns(len(calibration)):
        piece = [calibration[i] for i in turn or ()]
        pieces.append(range(len(samples), len(samples) + len(piece)))
        samples += piece
    return samples or [calibration[0]], pieces


def _summed(name: str, pieces: Iterable[Iterable[Tensor]], needs: Sequence[str]) -> Stats:
    """Chunk after chunk, and so in the same order for any number of ranks. pieces: this rank's columns, for each turn, made one by one."""
    total = Sums(needs)
    for piece in pieces:
        for part in world().in_turn(f"statistics of '{name}'", Sums.of(piece, needs).tensors()):
            total.merge(part)
    return total.stats()


def statistics(columns: Iterable[Tensor], needs: Sequence[str]) -> Stats:
    """columns: float[tokens, cols], what the matrix is multiplied with in each sample; nothing of them is kept but "inputs"."""
    return Sums.of(columns, needs).stats()


def second_moments(graph: Graph, sites: Sequence[WeightSite], context: Context) -> Iterator[Stats]:
    """Per site, in order, its `hessian` and `tokens`; {} without any inputs."""
    if not context.calibration:
        yield from [{}] * len(sites)
        return
    for _, stats in calibrated(graph, sites, ("hessian", "tokens"), context):
        yield stats


def largest_inputs(graph: Graph, sites: Sequence[WeightSite], context: Context) -> dict[str, float | Refused]:
    """Per site name the largest magnitude that enters it in any calibration input; refused where there is none above zero, or no number."""
    found = dict[str, list[float]]()
    samples = _own(context.calibration)[0] if context.calibration else ()
    for name, entering in graph.walk(samples, [site.name for site in sites]):
        found[name] = [float(x.abs().max()) for (x,) in entering if x.numel()]
    everywhere = world().exchange("the largest inputs", found)
    largest = {site.name: [value for part in everywhere for value in part.get(site.name, ())] for site in sites}
    return {name: _range(_largest(values)) if values else Refused(UNREACHED) for name, values in largest.items()}


def _largest(values: Sequence[float]) -> float:
    """NaN where one of them is."""
    return math.nan if any(map(math.isnan, values)) else max(values)


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
