"""Which rung each site takes: the least loss within limits of time and bytes, as a mixed integer program that HiGHS solves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Assignment = Mapping[str, str]
"""site → rung."""
_GAP = 1e-3  # of the loss, below which a better choice is not looked for
_SECONDS = 10.0


@dataclass(frozen=True)
class Option:
    """One rung at one site. ms: what it adds to the model's time; negative where that is counted from the dense model's.  size: bytes that
    are stored.  loss: what the model's relative squared error grows by; losses of sites add up (`calibration.sensitivity`)."""

    site: str
    rung: str
    ms: float
    size: float
    loss: float


@dataclass(frozen=True)
class Limits:
    """ms, size: of all sites together; None where there is no limit."""

    ms: float | None = None
    size: float | None = None


def least_loss(options: Sequence[Option], limits: Limits, seconds: float = _SECONDS) -> dict[str, str] | None:
    """One rung for each site; None where no choice is within the limits, or the solver finds none in these seconds. Of equal losses the one
    that takes less time."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    options = _worth(options)
    sites = list(dict.fromkeys(option.site for option in options))
    ms, size, loss = (np.array([getattr(option, name) for option in options], float) for name in ("ms", "size", "loss"))
    if not sites:
        return {}
    rows = [sites.index(option.site) for option in options]
    one_each = csr_array((np.ones(len(options)), (rows, range(len(options)))), shape=(len(sites), len(options)))
    constraints = [LinearConstraint(one_each, 1, 1)]  # type: ignore[arg-type]
    for amounts, limit in ((ms, limits.ms), (size, limits.size)):
        if limit is not None:
            scale = max(float(np.abs(amounts).max()), 1e-12)  # HiGHS takes what is small for nothing
            constraints.append(LinearConstraint(amounts[None] / scale, -np.inf, limit / scale))
    top = max(float(loss.max()), 1e-30)
    cost = loss / top + 1e-6 * ms / max(float(np.abs(ms).max()), 1e-12)
    options_of_solver = {"time_limit": seconds, "mip_rel_gap": _GAP}
    found = milp(cost, integrality=np.ones(len(options)), bounds=Bounds(0, 1), constraints=constraints, options=options_of_solver)
    if found.x is None:
        return None
    return {option.site: option.rung for option, taken in zip(options, found.x, strict=True) if taken > 0.5}


def fastest(options: Sequence[Option]) -> dict[str, str]:
    """The rung of each site that takes the least time."""
    best: dict[str, Option] = {}
    for option in options:
        if option.site not in best or (option.ms, option.loss) < (best[option.site].ms, best[option.site].loss):
            best[option.site] = option
    return {site: option.rung for site, option in best.items()}


def total(options: Sequence[Option], assignment: Assignment) -> Option:
    """What the sites of an assignment come to together."""
    taken = [option for option in options if assignment.get(option.site) == option.rung]
    return Option("", "", *(sum(getattr(option, name) for option in taken) for name in ("ms", "size", "loss")))


def _worth(options: Sequence[Option]) -> list[Option]:
    """Without those that another of the same site beats in everything: a tenth of them is left, as a rule."""
    by_site: dict[str, list[Option]] = {}
    for option in sorted(options, key=lambda one: (one.ms, one.size, one.loss)):
        kept = by_site.setdefault(option.site, [])
        if not any(other.ms <= option.ms and other.size <= option.size and other.loss <= option.loss for other in kept):
            kept.append(option)
    return [option for kept in by_site.values() for option in kept]
