"""How much of a model's error each layer's own error makes, and how that one grows with the layer's sparsity.

By the linearity theorem of HIGGS (Malinovskii et al., Pushing the Limits of Large Language Model Quantization via the Linearity Theorem,
2024) small errors of layers add up in the output: it is off by Σ a_l·err_l². So a_l is measured once, by a small change of the layer.
That of the paper is Gaussian noise. Here it is what the criterion does to the layer at about half of its weights, made small: on MiniLM a_l
of value projections is up to 4 times smaller so, and the division of 50 % by it leaves a cosine of 0.893, not 0.888, with wanda, of 0.944,
not 0.941, with sparsegpt, and of 0.828, not 0.824, with sparsegpt in blocks of 4x1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sparsecc import criteria
from sparsecc.calibration.context import Context
from sparsecc.calibration.outputs import Outputs, spread
from sparsecc.calibration.statistics import calibrated, relative_error, work_in
from sparsecc.criteria.base import unusable
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import WeightSite
from sparsecc.pruning import Pruning
from sparsecc.ranks.work import streamed

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.criteria.base import Stats

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
COARSE = (0.25, 0.5, 0.75, 0.9)  # for criteria that go through a layer column by column
SAMPLES = 4  # on which the model is run; 8 divide MiniLM the same, to a cosine of 0.0001
PROBE = 0.1  # ‖ΔW X‖ / ‖W X‖ of the change by which a gain is measured: small enough for errors to add up
_UNREACHED = (
    1e9  # loss of a layer about which nothing is known, at sparsity 1, and the largest gain: such layers stay whole if others can go
)


@dataclass(frozen=True)
class Sensitivity:
    """Of one layer. gain: a, the model's relative squared error for a relative squared error of the layer of 1.

    levels: sparsities, rising from 0 to 1.  errors: ‖(W − W')X‖ / ‖WX‖ of the layer pruned to each, on the calibration inputs X.
    model_errors: the model's relative error with only this layer pruned to each but 1; empty where that was not asked for.
    """

    gain: float
    levels: tuple[float, ...]
    errors: tuple[float, ...]
    model_errors: tuple[float, ...] = ()

    def loss(self, sparsity: float) -> float:
        """What the model's relative squared error grows by. Between the levels the layer's error is taken to be linear."""
        error = float(np.interp(sparsity, self.levels, np.maximum.accumulate(self.errors)))
        return min(self.gain, _UNREACHED) * error**2  # where the model overflows, a gain is infinite


class Losses:
    """`Sensitivity.loss` of every site in the model as it came, measured once an allocation asks."""

    def __init__(self, pruning: Pruning, graph: Graph, sites: Sequence[WeightSite], context: Context) -> None:
        stands_in = criteria.create(pruning.criterion).measured_as
        self._pruning = pruning if stands_in is None else replace(pruning, criterion=stands_in)
        self._graph, self._sites, self._context = graph, sites, context
        self._found: dict[str, Sensitivity | Refused] = {}

    def of(self, name: str, sparsity: float) -> float:
        if not self._found:
            found = measured(self._pruning, self._graph, self._sites, self._context)
            self._found = {site.name: sensitivity for site, sensitivity in found}
        known = self._found[name]
        return _UNREACHED * sparsity if isinstance(known, Refused) else known.loss(sparsity)


def measured(
    pruning: Pruning,
    graph: Graph,
    sites: Sequence[WeightSite],
    context: Context,
    levels: Sequence[float] | None = None,
    samples: int = SAMPLES,
    whole: bool = False,
) -> Iterator[tuple[WeightSite, Sensitivity | Refused]]:
    """Each site, in execution order, as `pruning` would have it; refused where calibration tells nothing about it.

    levels: sparsities at which the layer is pruned; None: LEVELS, or COARSE where the criterion takes long.  samples: of the calibration,
    on which the model is run.  whole: also run the model at each level.  Raises RecipeError where there is nothing to calibrate on.
    """
    if not context.calibration:
        raise RecipeError("allocation: sensitivity is measured on calibration inputs; pass calibration= (--calib)")
    needs = pruning.needs
    levels = (COARSE if {"hessian", "gradients"} & {*needs} else LEVELS) if levels is None else levels
    working, outputs = graph.copy(), Outputs(graph, spread(context.calibration, samples))

    def model_error(site: WeightSite, matrix: Tensor) -> float:
        working.set_weight(site, site.from_matrix(matrix))
        found = outputs.error(working)
        working.set_weight(site, site.weight)
        return found

    def of(known: tuple[WeightSite, Stats]) -> Sensitivity | Refused:
        site, stats = known
        reason = unusable(stats, ("hessian",))
        if reason is not None:
            return reason
        matrix, hessian = site.matrix, stats["hessian"]
        zeros = float((pruning.masks.unit_scores(matrix.abs().float()) == 0).double().mean())
        points = sorted({zeros, *levels} - {0.0, 1.0})
        errors, model_errors, probe = [0.0], [0.0], (math.inf, matrix)
        for point in points:
            cut = pruning.pruned(site, point, stats, context.seed)
            errors.append(relative_error(pruning.weighed(matrix, stats), pruning.weighed(cut, stats), hessian))
            if whole:
                model_errors.append(model_error(site, cut) ** 0.5)
            if errors[-1] and abs(point - 0.5) < probe[0]:
                probe = abs(point - 0.5), (matrix + PROBE / errors[-1] * (cut - matrix)).to(matrix.dtype)
        gain = model_error(site, probe[1]) / PROBE**2
        return Sensitivity(gain, (0.0, *points, 1.0), (*errors, 1.0), tuple(model_errors) if whole else ())

    known = calibrated(graph, sites, tuple(dict.fromkeys((*needs, "hessian"))), context)
    costs, sizes = [work_in((site, {})) for site in sites], [8 * site.cols * (site.cols + site.rows) for site in sites]
    yield from zip(sites, streamed("sensitivities", known, costs, sizes, of), strict=True)
