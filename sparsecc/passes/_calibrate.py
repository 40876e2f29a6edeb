"""What criteria want to know about the inputs of a site, measured by running the model on calibration inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsecc.criteria.base import Stats
from sparsecc.errors import RecipeError, SparseccError
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Conv2d, WeightSite
from sparsecc.passes.base import Context


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
