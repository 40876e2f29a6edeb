"""Which rung each site takes: the least loss within limits of time and bytes, as a mixed integer program that HiGHS solves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Assignment = Mapping[str, str]
"""site → rung."""
_GAP = 1e-3  # of the loss, below which a better choice is not looked for
_SECONDS = 10.0


@dataclass(frozen=True)
class Option:
    """One rung at one site. ms: what it adds to the model's time; negative where that is counted from the dense model's.  size: bytes that
    are stored.  loss: what the model's relative squared error grows by; losses of sites add up (`calibration.sensitivity`).
    tied: a group of sites and a level; all sites of the group take options of one level. None for a site that is in no group."""

    site: str
    rung: str
    ms: float
    size: float
    loss: float
    tied: tuple[str, str] | None = None


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
    ties = _ties(options)
    count = len(options) + len(ties)  # of variables: whether an option is taken, and whether a group is on a level
    rows = [sites.index(option.site) for option in options]
    one_each = csr_array((np.ones(len(options)), (rows, range(len(options)))), shape=(len(sites), count))
    constraints = [LinearConstraint(one_each, 1, 1)]  # type: ignore[arg-type]
    if ties:
        constraints.append(LinearConstraint(_together(ties, count), 0, 0))  # type: ignore[arg-type]
    for amounts, limit in ((ms, limits.ms), (size, limits.size)):
        if limit is not None:
            scale = max(float(np.abs(amounts).max()), 1e-12)  # HiGHS takes what is small for nothing
            constraints.append(LinearConstraint(_padded(amounts, count)[None] / scale, -np.inf, limit / scale))
    top = max(float(loss.max()), 1e-30)
    cost = _padded(loss / top + 1e-6 * ms / max(float(np.abs(ms).max()), 1e-12), count)
    options_of_solver = {"time_limit": seconds, "mip_rel_gap": _GAP}
    found = milp(cost, integrality=np.ones(count), bounds=Bounds(0, 1), constraints=constraints, options=options_of_solver)
    if found.x is None:
        return None
    return {option.site: option.rung for option, taken in zip(options, found.x, strict=False) if taken > 0.5}


def fastest(options: Sequence[Option]) -> dict[str, str]:
    """The rung of each site that takes the least time; in a group at the level that takes the least time together."""
    best: dict[str, dict[tuple[str, str] | None, Option]] = {}
    for option in options:
        of = best.setdefault(option.site, {})
        if option.tied not in of or (option.ms, option.loss) < (of[option.tied].ms, of[option.tied].loss):
            of[option.tied] = option
    levels: dict[str, tuple[str, str]] = {}
    for tied, sites in _ties(options).items():
        if all(tied in best[site] for site in sites) and (
            tied[0] not in levels or _amounts(best, sites, tied) < _amounts(best, sites, levels[tied[0]])
        ):
            levels[tied[0]] = tied
    found: dict[str, str] = {}
    for site, of in best.items():
        group = next((tied[0] for tied in of if tied is not None), None)
        found[site] = of[None if group is None else levels[group]].rung
    return found


_Best = Mapping[str, Mapping[tuple[str, str] | None, Option]]


def _amounts(best: _Best, sites: Mapping[str, Sequence[int]], tied: tuple[str, str]) -> tuple[float, float]:
    """ms and loss of all sites of a group at one level."""
    return sum(best[site][tied].ms for site in sites), sum(best[site][tied].loss for site in sites)


def _ties(options: Sequence[Option]) -> dict[tuple[str, str], dict[str, list[int]]]:
    """Group and level → each site of the group → places of its options of this level, none where it has none."""
    members: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for option in options:
        if option.tied is not None:
            members[option.tied[0]][option.site] = None
    found: dict[tuple[str, str], dict[str, list[int]]] = {}
    for place, option in enumerate(options):
        if option.tied is not None:
            found.setdefault(option.tied, {site: [] for site in members[option.tied[0]]})[option.site].append(place)
    return found


def _together(ties: Mapping[tuple[str, str], Mapping[str, Sequence[int]]], count: int) -> Any:
    """A row for each site and level: its options of the level, less whether the group is on it. These variables stand last."""
    from scipy.sparse import lil_array

    rows = [(place, places) for place, by_site in enumerate(ties.values(), count - len(ties)) for places in by_site.values()]
    made = lil_array((len(rows), count))
    for row, (level, places) in enumerate(rows):
        made[row, level] = -1.0
        for place in places:
            made[row, place] = 1.0
    return made.tocsr()


def _padded(amounts: np.ndarray, count: int) -> np.ndarray:
    """With zeros for variables that are no options."""
    return np.pad(amounts, (0, count - len(amounts)))


def total(options: Sequence[Option], assignment: Assignment) -> Option:
    """What the sites of an assignment come to together."""
    taken = [option for option in options if assignment.get(option.site) == option.rung]
    return Option("", "", sum(one.ms for one in taken), sum(one.size for one in taken), sum(one.loss for one in taken))


def _worth(options: Sequence[Option]) -> list[Option]:
    """Without those that another of the same site and level beats in everything: a tenth of them is left, as a rule."""
    alike: dict[tuple[str, tuple[str, str] | None], list[Option]] = {}
    for option in sorted(options, key=lambda one: (one.ms, one.size, one.loss)):
        kept = alike.setdefault((option.site, option.tied), [])
        if not any(other.ms <= option.ms and other.size <= option.size and other.loss <= option.loss for other in kept):
            kept.append(option)
    return [option for kept in alike.values() for option in kept]
