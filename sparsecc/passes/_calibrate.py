"""What criteria and structures want to know about the inputs of a site, measured by running the model on calibration inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sparsecc.criteria.base import Stats
from sparsecc.errors import RecipeError, SparseccError
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Conv2d, WeightSite
from sparsecc.passes.base import Context

_SITES_PER_RUN = 16  # how many layers' inputs are held at once
COVARIANCE_BYTES = 1 << 28  # of covariances that are summed at once; more layers take more runs


def measure(graph: Graph, sites: Sequence[WeightSite], needs: Sequence[str], context: Context) -> dict[str, Stats]:
    """The statistics that a criterion needs, per site name. Raises RecipeError when there are no calibration inputs to take them from."""
    if not needs:
        return {site.name: {} for site in sites}
    if unknown := [need for need in needs if need != "inputs"]:
        raise SparseccError(f"no statistic is called {unknown[0]!r}; there is: inputs")
    if not context.calibration:
        raise RecipeError("criterion: this one needs calibration inputs; pass calibration= (--calib)")
    taps = [site.name for site in sites]
    runs = [graph.run(inputs, taps).taps for inputs in context.calibration]
    return {site.name: {"inputs": torch.cat([_as_columns(site, run[site.name][0]) for run in runs])} for site in sites}


def covariances(graph: Graph, sites: Sequence[WeightSite], context: Context) -> Iterator[Tensor | None]:
    """Per site, in order, XᵀX/n as float64[cols, cols], X [n, cols] being all calibration inputs of its matrix; None without any."""
    if not context.calibration:
        yield from [None] * len(sites)
        return
    for group in _grouped(sites):
        sums = [torch.zeros(site.cols, site.cols, dtype=torch.float64) for site in group]
        counts = [0] * len(group)
        for inputs in context.calibration:
            taps = graph.run(inputs, [site.name for site in group]).taps
            for i, site in enumerate(group):
                x = _as_columns(site, taps[site.name][0]).double()
                sums[i].addmm_(x.T, x)
                counts[i] += len(x)
        yield from (total / max(1, count) for total, count in zip(sums, counts, strict=True))


def largest_inputs(graph: Graph, sites: Sequence[WeightSite], context: Context) -> dict[str, float]:
    """Per site name the largest magnitude that enters it in any calibration input. NaN where one enters."""
    largest = {site.name: 0.0 for site in sites}
    for inputs in context.calibration or ():
        for start in range(0, len(sites), _SITES_PER_RUN):
            names = [site.name for site in sites[start : start + _SITES_PER_RUN]]
            taps = graph.run(inputs, names).taps
            found = {name: taps[name][0].abs().max().item() if taps[name][0].numel() else 0.0 for name in names}
            largest |= {name: value if not value <= largest[name] else largest[name] for name, value in found.items()}
    return largest


def _grouped(sites: Sequence[WeightSite]) -> Iterator[list[WeightSite]]:
    """Neighbours whose covariances fit into COVARIANCE_BYTES together; at least one."""
    group: list[WeightSite] = []
    for site in sites:
        if group and 8 * sum(other.cols**2 for other in (*group, site)) > COVARIANCE_BYTES:
            yield group
            group = []
        group.append(site)
    if group:
        yield group


def _as_columns(site: WeightSite, x: Tensor) -> Tensor:
    """float[tokens, cols]: what the site's matrix is multiplied with, one row per output position."""
    if not isinstance(site, Conv2d):
        return x.reshape(-1, site.cols).float()
    _, channels, kh, kw = site.shape
    top, left, bottom, right = site.padding
    padded = torch.nn.functional.pad(x.float(), (left, right, top, bottom))
    patches = torch.nn.functional.unfold(padded, (kh, kw), dilation=site.dilation, stride=site.stride)
    # unfold has channels outermost, the matrix has them innermost
    return patches.transpose(1, 2).reshape(-1, channels, kh * kw).transpose(1, 2).reshape(-1, site.cols)
