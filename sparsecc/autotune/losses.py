"""What each rung costs a model, site by site, before anything is tried: by the error of the site's own output, and how much of that
reaches the model's.

    loss(site, rung) = gain(site) · ‖(W − W') X‖² / ‖W X‖²

W' is what the rung's passes make of the weight, X what enters the site in the calibration. Gains are measured once, see
`calibration.sensitivity` (after the linearity theorem of HIGGS, Malinovskii et al. 2024). What is left out of this, as rounded activations,
and errors that do not add up, the search mends by whole models that it measures: each rung has a factor, see `Factors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

_PRIOR = 0.3  # how far a factor is drawn to the others', relative to one measurement


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
