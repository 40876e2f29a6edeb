"""What a model looks like to a compiler of sparse models, before anything is decided: nothing here changes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from sparsecc._version import __version__
from sparsecc.api import sources
from sparsecc.calibration.samples import samples_of
from sparsecc.errors import RecipeError, Refused, UserError
from sparsecc.report.sensitivity import LayerCurve, SensitivityReport

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.calibration.sensitivity import Sensitivity
    from sparsecc.graph.base import Graph

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SMALL = 0.01  # of the largest magnitude that enters a layer: activations up to it count as small
ENERGIES = (0.9, 0.99)  # shares of the squared singular values


def sensitivity(
    model: Any,
    example_inputs: Any = None,
    *,
    calibration: Iterable[Any] | str | PathLike[str],
    pattern: str = "unstructured",
    criterion: str = "magnitude",
    targets: Sequence[str] = (),
    ignore: Sequence[str] = (),
    levels: Sequence[float] = LEVELS,
    samples: int = 4,
    seed: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> SensitivityReport:
    """How far the model's outputs move when one layer alone is pruned, for every layer and a grid of sparsities.

    model, example_inputs, calibration, input_shapes: as for `compile`.  pattern, criterion, targets, ignore, seed: as for the pass `prune`;
    the pattern may not be N:M, which has one sparsity.  levels: sparsities in (0, 1).  samples: of the calibration, on which the model
    runs, layers × levels times; statistics for the criterion are taken on all of it.

    Raises UserError and its children (ModelError, RecipeError, InputError) for what the caller can mend.
    """
    from sparsecc.calibration.context import Context
    from sparsecc.calibration.samples import numbered
    from sparsecc.calibration.sensitivity import measured
    from sparsecc.graph.select import require_valid, select
    from sparsecc.graph.sites import WeightSite
    from sparsecc.pruning import Pruning

    if not levels or not all(0 < level < 1 for level in levels):
        raise UserError(f"levels: {list(levels)} are not sparsities between 0 and 1")
    if samples < 1:
        raise UserError(f"samples: {samples} is less than 1")
    require_valid(targets=tuple(targets), ignore=tuple(ignore))
    pruning = Pruning(criterion=criterion, pattern=pattern)
    if pruning.masks.fixed_sparsity is not None:
        raise RecipeError(f"pattern: {pattern} has one sparsity and so no curve; take 'unstructured' or blocks, as '4x1'")
    graph = sources.open_graph(model, example_inputs, input_shapes)
    context = Context(calibration=samples_of(calibration, graph.inputs), seed=seed)
    if context.calibration is None:
        raise UserError("calibration: needed, errors are measured on it; pass calibration= (--calib)")
    grid = tuple(sorted(set(levels)))
    sites = select(graph, WeightSite, tuple(targets), tuple(ignore))
    skipped = {site.name: reason.reason for site in sites if (reason := pruning.refuse(site, tuple(targets)))}
    curves: list[LayerCurve] = []
    taken = [site for site in sites if site.name not in skipped]
    with numbered(graph, context.calibration):
        for site, found in measured(pruning, graph, taken, context, grid, samples, whole=True) if taken else ():
            if isinstance(found, Refused):
                skipped[site.name] = found.reason
            else:
                curves.append(_curve(site, found, grid))
    return SensitivityReport(
        sparsecc=__version__,
        model=sources.name_of(model),
        criterion=criterion,
        pattern=pattern,
        samples=min(samples, len(context.calibration)),
        levels=grid,
        sites=tuple(curves),
        skipped=skipped,
    )


def _curve(site: Any, found: Sensitivity, levels: Sequence[float]) -> LayerCurve:
    places = [found.levels.index(level) for level in levels]
    return LayerCurve(
        name=site.name,
        kind=site.kind,
        shape=site.shape,
        gain=found.gain,
        errors=tuple(found.model_errors[place] for place in places),
        layer_errors=tuple(found.errors[place] for place in places),
    )


def densities(graph: Graph, calibration: Sequence[Any]) -> Iterator[tuple[str, dict[str, float | None]]]:
    """Per layer, of the activations that enter it in all samples, as the calibration has them: nonzero, the share that is not zero,
    and above_small, the share whose magnitude is above SMALL of the largest one; None where nothing enters it.

    What it looks like from the neurons: Li et al., The Lazy Neuron Phenomenon, 2023.
    """
    from sparsecc.calibration.samples import numbered
    from sparsecc.graph.sites import WeightSite

    with numbered(graph, calibration):
        for name, entering in graph.walk(calibration, [site.name for site in graph.sites(WeightSite)]):
            tensors = [x.abs() for (x,) in entering if x.numel()]
            count = sum(x.numel() for x in tensors)
            least = SMALL * max((float(x.max()) for x in tensors), default=0.0)
            above = {"nonzero": 0.0, "above_small": least}
            yield name, {key: sum(int((x > floor).sum()) for x in tensors) / count if count else None for key, floor in above.items()}


def ranks(matrix: Tensor) -> dict[str, float]:
    """By share of the squared singular values, "0.9" and "0.99": how many of them hold it, the largest first, over min(rows, cols).

    0 for a matrix of zeros, nothing for one with NaN or infinity.
    """
    import torch

    wide = matrix.detach().double()
    gram = wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide
    if not gram.isfinite().all():
        return {}
    power = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0)
    held = power.cumsum(0)
    if not held.numel() or not held[-1]:
        return {str(share): 0.0 for share in ENERGIES}
    return {str(share): (int((held < share * held[-1]).sum()) + 1) / len(held) for share in ENERGIES}
