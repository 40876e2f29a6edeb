"""What each rung costs a model, site by site, before anything is tried: by the error of the site's own output, and how much of that
reaches the model's.

    loss(site, rung) = gain(site) · ‖(W − W') X‖² / ‖W X‖²

W' is what the rung's passes make of the weight, X what enters the site in the calibration. Gains are measured once, see
`calibration.sensitivity` (after the linearity theorem of HIGGS, Malinovskii et al. 2024). What is left out of this, as rounded activations,
and errors that do not add up, the search mends by whole models that it measures: each rung has a factor, see `Factors`.

What goes with neurons and heads counts at the layer that reads them, as the error of its output once its other columns make up for them.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecc.autotune.rungs import DENSE, REMOVAL, ROUND_TO, Rung, everywhere
from sparsecc.calibration.context import Context, Progress
from sparsecc.calibration.outputs import spread
from sparsecc.calibration.sensitivity import measured as sensitivities
from sparsecc.calibration.statistics import calibrated, relative_error
from sparsecc.errors import Refused
from sparsecc.graph.inputs import as_array
from sparsecc.graph.sites import WeightSite
from sparsecc.pruning import Pruning

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.api.trials import Trials
    from sparsecc.autotune.store import Store
    from sparsecc.criteria.base import Stats
    from sparsecc.graph.inputs import Sample

_PRIOR = 0.3  # how far a factor is drawn to the others', relative to one measurement
_SAMPLES = 4  # on which the model runs for its gains
_ENTERING = 8  # of which what enters the layers is taken, where that is too much of all
_STATISTICS = ("hessian", "means", "norms", "tokens")  # that criteria and structures need
_HELD = 2**31  # bytes of statistics, at most
_PROBE = 0.5  # sparsity of the change by which a gain is measured
_FEWEST = 2  # rungs whose losses are measured in any case


def losses(
    trials: Trials,
    ladder: Sequence[Rung],
    samples: Sequence[Sample],
    store: Store,
    prune: Mapping[str, Any],
    progress: Callable[[Progress], None] | None = None,
    until: float = math.inf,
) -> dict[tuple[str, Rung], float]:
    """For each layer and rung; what the store knows is not measured again. A layer whose gain cannot be measured has the dense rung alone.

    prune: fields of the pass, as the criterion.  until: of the monotonic clock, after which no further rung is begun but the first beside
    the dense one."""
    key = {"model": trials.fingerprint, "code": trials.version, "samples": digest(samples), "prune": dict(prune)}
    dense = _Dense(trials, samples)
    gains = store.of(key | {"gains": _SAMPLES}, lambda: dict(dense.gains()))
    shares = sorted({rung.narrow for rung in ladder if rung.narrow is not None})
    found: dict[tuple[str, Rung], float] = {}

    def errors_of(rung: Rung) -> dict[str, float]:
        return store.of(key | {"errors": str(rung)}, lambda: dict(dense.errors(rung, prune)))

    for done, rung in enumerate(ladder):
        if done >= _FEWEST and time.monotonic() > until:
            break
        if progress is not None:
            progress(Progress("measuring losses", done, len(ladder), str(rung)))
        if rung.narrow is None:
            errors = errors_of(rung)
        else:
            removed = store.of(key | {"removed": shares}, lambda: dense.removed(shares))
            errors = dict(_narrower(trials, errors_of(Rung(rung.dtype)), removed, rung.narrow))
        known = {site: gain for site, error in errors.items() if (gain := gains.get(site)) is not None or rung == DENSE}
        found |= {(site, rung): (gain or 0.0) * errors[site] ** 2 for site, gain in known.items()}
    return found


def digest(samples: Sequence[Sequence[Any]]) -> str:
    """Tells samples apart by what is in them, and by where one ends and the next begins. samples: of tensors or of arrays, of text too."""
    made = hashlib.sha256()
    for sample in samples:
        made.update(f"[{len(sample)}]".encode())
        for value in sample:
            array = np.ascontiguousarray(value if isinstance(value, np.ndarray) else as_array(value))
            array = array.astype(str) if array.dtype == object else array  # whose bytes are addresses
            made.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return made.hexdigest()[:32]


class _Dense:
    """The model as it came, on the calibration samples. It runs once: what enters its layers serves all rungs."""

    def __init__(self, trials: Trials, samples: Sequence[Sample]) -> None:
        self._trials, self._samples = trials, samples
        self._sites = trials.graph.sites(WeightSite)

    @cached_property
    def _known(self) -> dict[str, Stats] | None:
        """As in `Context`; None where they would take too much memory."""
        if sum(8 * site.cols**2 for site in self._sites) > _HELD:
            return None
        found = calibrated(self._trials.graph, self._sites, _STATISTICS, Context(calibration=self._samples))
        return {site.name: stats for site, stats in found}

    @cached_property
    def _covariances(self) -> dict[str, Tensor]:
        """XᵀX/n of what enters the layers that are reached."""
        if (known := self._known) is None:
            found = calibrated(self._trials.graph, self._sites, ("hessian",), Context(calibration=spread(self._samples, _ENTERING)))
            known = {site.name: stats for site, stats in found}
        return {name: stats["hessian"] for name, stats in known.items() if "hessian" in stats}

    def gains(self) -> Iterator[tuple[str, float]]:
        context = Context(calibration=spread(self._samples, _ENTERING), known=self._known)
        for site, found in sensitivities(Pruning(), self._trials.graph, self._sites, context, (_PROBE,), _SAMPLES):
            if not isinstance(found, Refused) and math.isfinite(found.gain):
                yield site.name, found.gain

    def errors(self, rung: Rung, prune: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        """‖(W − W') X‖ / ‖W X‖ of each layer, with all before it as they came."""
        if rung == DENSE:
            yield from ((site.name, 0.0) for site in self._sites)
            return
        fields = {} if rung.pattern is None else {"prune": prune}
        rewritten = self._trials.rewritten(everywhere(rung, **fields), self._samples, known=self._known)
        after = {site.name: site for site in rewritten.sites(WeightSite)}
        for site in self._sites:
            if site.name in after:
                yield site.name, relative_error(site.matrix, after[site.name].matrix, self._covariances.get(site.name))

    def removed(self, shares: Sequence[float]) -> dict[str, dict[str, float]]:
        """`Trials.removal_errors`, as JSON keeps it."""
        found = self._trials.removal_errors(shares, self._samples, self._known, round_to=ROUND_TO, **REMOVAL)
        return {group: {str(share): error for share, error in errors.items()} for group, errors in found.items()}


def _narrower(
    trials: Trials, numbers: Mapping[str, float], removed: Mapping[str, Mapping[str, float]], share: float
) -> Iterator[tuple[str, float]]:
    """The errors of layers that become narrower.  numbers: what their numbers cost them.  removed: as `_removed` gives it."""
    for name, group in trials.groups.items():
        error = removed.get(name, {}).get(str(share))
        if error is not None and numbers.keys() >= set(group.layers):
            yield from ((layer, numbers[layer]) for layer in group.layers[:-1])
            yield group.reader, math.hypot(numbers[group.reader], error)


@dataclass
class Factors:
    """By what the losses of each rung are multiplied, learned from whole models: measured ≈ Σ over rungs of factor · loss.

    Least squares of relative errors, in which each factor is drawn to their common value, so that rungs which were never measured follow
    the others."""

    rungs: Sequence[str]
    seen: list[tuple[dict[str, float], float]] = field(default_factory=list)  # losses by rung, and what was measured

    def add(self, losses: Mapping[str, float], measured: float) -> None:
        """losses: of one model, summed by rung.  measured: its relative squared error; ignored where either is nothing."""
        if measured > 0 and sum(losses.values()) > 0 and np.isfinite(measured):
            self.seen.append((dict(losses), measured))

    @property
    def common(self) -> float:
        """The factor of all rungs together."""
        ratios = [measured / sum(losses.values()) for losses, measured in self.seen]
        return float(np.exp(np.mean(np.log(ratios)))) if ratios else 1.0

    def of(self) -> dict[str, float]:
        from scipy.optimize import nnls

        common = self.common
        if not self.seen:
            return dict.fromkeys(self.rungs, common)
        rows = [[losses.get(rung, 0.0) * common / measured for rung in self.rungs] for losses, measured in self.seen]
        prior = np.eye(len(self.rungs)) * _PRIOR
        found, _ = nnls(np.vstack([np.array(rows), prior]), np.concatenate([np.ones(len(rows)), np.full(len(self.rungs), _PRIOR)]))
        return {rung: common * max(float(factor), 0.05) for rung, factor in zip(self.rungs, found, strict=True)}
