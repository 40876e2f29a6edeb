"""What a recipe's model will take, in time and in bytes, before it is made.

The model is compiled with each rung of a ladder on all layers that it fits, and profiled as it runs. A mixture then takes what each of its
layers took on its rung in the model, what prepares inputs for them, and a rest that is no layer's.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import networkx as nx

from sparsecc.autotune.measured import Measured
from sparsecc.autotune.rungs import DENSE, Rung, everywhere, recipe
from sparsecc.calibration.context import Progress
from sparsecc.errors import UserError
from sparsecc.registry import did_you_mean

if TYPE_CHECKING:
    from sparsecc.api.trials import Trials, Variant
    from sparsecc.autotune.store import Store

Assignment = Mapping[str, Rung]
_SECONDS = 2.0  # to profile a variant, and again to compare it with the dense model
_ROUNDS = 60
_FEWEST = 2  # rungs that are measured in any case: the dense one, and another
_ON_RANDOM: dict[str, Any] = {"prune": {"criterion": "random"}, "structured": {"criterion": "magnitude"}}
"""What needs no calibration: where the zeros are, and which neurons go, changes no time."""
_GLOBAL, _OWN = 0.25, 0.5  # of what a check was off: taken on by all predictions, and by the rungs, by their share of the time


class Cost:
    """Predicts the time of a mixture of rungs, and counts its bytes.

    An assignment gives a rung to each layer, by its name; layers left out are dense. Sparsities between two measured ones of the same
    pattern and numbers are interpolated linearly, and shares of neurons and heads, too.
    """

    def __init__(self, trials: Trials, store: Store, ladder: Mapping[Rung, Measured], dense: Variant | None = None) -> None:
        """ladder: what was measured, the dense model among it. `measured` makes one."""
        self.trials, self._ladder = trials, dict(ladder)
        self._global, self._factors = 1.0, dict[Rung, float]()
        self._meter = _Meter(trials, store, _SECONDS, self._ladder[DENSE].whole_us, dense)
        self._reads = _reads(self._ladder)
        self._rest = dict.fromkeys(self._ladder, 0.0)
        for rung in sorted(self._ladder, key=lambda rung: rung != DENSE):  # on which the others build: some of their layers are dense
            self._rest[rung] = self._rest_of(rung)

    @classmethod
    def measured(
        cls,
        trials: Trials,
        ladder: Sequence[Rung],
        store: Store,
        seconds: float = _SECONDS,
        progress: Callable[[Progress], None] | None = None,
        until: float = math.inf,
        dense: Variant | None = None,
    ) -> Cost:
        """Measure what the store does not know already.  seconds: for each rung, twice, after it was compiled.  until: of the monotonic
        clock, after which no further rung is begun but the first beside the dense one.  dense: the model as it came, compiled.

        Raises UserError for a target that is not this machine.
        """
        if not trials.is_here:
            raise UserError(f"target {trials.target.name!r} is not this machine, so that nothing can be measured for it; tune there")
        found: dict[Rung, Measured] = {}
        meter, rungs = _Meter(trials, store, seconds, dense=dense), list(dict.fromkeys([DENSE, *ladder]))
        for done, rung in enumerate(rungs):
            if done >= _FEWEST and time.monotonic() > until:
                break
            if progress is not None:
                progress(Progress("timing rungs", done, len(rungs), str(rung)))
            found[rung] = meter.rung(rung)
        return cls(trials, store, found, dense)

    @property
    def dense_ms(self) -> float:
        """Of the model as it came."""
        return self._ladder[DENSE].whole_us / 1e3

    @property
    def measured_rungs(self) -> tuple[Rung, ...]:
        return tuple(self._ladder)

    def rungs(self, site: str) -> tuple[Rung, ...]:
        """Those measured on which the layer can be."""
        self._require_site(site)
        return tuple(rung for rung, found in self._ladder.items() if site in found.fits)

    def predict(self, assignment: Assignment) -> float:
        """Milliseconds of a call. Raises UserError for a layer that is not in the model, a rung that was not measured and lies between no
        two that were, and one that the layer cannot be on."""
        return sum(self._parts(assignment).values()) / 1e3

    def bytes(self, assignment: Assignment) -> int:
        """What all weights take, as the report's `bytes_kept` counts them. Raises as `predict` does.

        At a level that was not measured it is a straight line between its neighbours, up to the rounding of counts.
        """
        total = float(self._ladder[DENSE].other_bytes)
        for site, rung in self._whole(assignment).items():
            total += sum(share * self._ladder[known].bytes[site] for known, share in self._between(site, rung))
        return round(total)

    def recipe(self, assignment: Assignment, **fields: Any) -> dict[str, Any]:
        """See `rungs.recipe`; layers in the order of the model."""
        whole = self._whole(assignment)
        return recipe({site: rung for site, rung in whole.items() if rung != DENSE}, groups=self.trials.groups, **fields)

    def check(self, assignment: Assignment, seconds: float = _SECONDS) -> float:
        """Milliseconds of the whole mixture, with random zeros, measured beside the dense model and on its scale; once."""
        meter = self._meter
        meter.seconds = seconds
        mixture = {site: rung for site, rung in self._whole(assignment).items() if rung != DENSE}
        return meter.mixture(mixture, self.recipe(mixture, **_ON_RANDOM)) / 1e3

    def time(self, compiled: Variant, seconds: float = _SECONDS) -> float:
        """Milliseconds of any compiled variant of the model, measured beside the dense model and on its scale, as predictions are."""
        self._meter.seconds = seconds
        return self._meter.beside_dense(compiled) / 1e3

    def correct(self, assignment: Assignment, measured_ms: float) -> None:
        """Fold the time of a whole mixture into all that is predicted from now on: half of what the prediction was off goes to its rungs,
        by their share of the time, and a quarter to everything, so that a single measurement that was disturbed does little.

        Raises UserError for a time that is no positive number.
        """
        if not (math.isfinite(measured_ms) and measured_ms > 0):
            raise UserError(f"a model takes a positive time, not {measured_ms} ms")
        parts = self._parts(assignment)
        total = sum(parts.values())
        off = math.log(1e3 * measured_ms / total)
        self._global *= math.exp(_GLOBAL * off)
        for rung, us in parts.items():
            self._factors[rung.family] = self._factors.get(rung.family, 1.0) * math.exp(_OWN * off * us / total)

    def _parts(self, assignment: Assignment) -> dict[Rung, float]:
        """µs by rung of the assignment. An input that is prepared once for several layers is divided among them."""
        parts: defaultdict[Rung, float] = defaultdict(float)
        prepared: defaultdict[_Prepared, list[tuple[Rung, float, float]]] = defaultdict(list)
        for site, rung in self._whole(assignment).items():
            for known, share in self._between(site, rung):
                parts[rung] += share * (self._ladder[known].site_us[site] + self._rest[known])
                for what, us in self._reads[known].get(site, {}).items():
                    prepared[what].append((rung, share, us))
        for readers in prepared.values():
            count = sum(share for _, share, _ in readers)
            for rung, share, us in readers:
                parts[rung] += share * us / count
        return {rung: us * self._global * self._factors.get(rung.family, 1.0) for rung, us in parts.items()}

    def _rest_of(self, rung: Rung) -> float:
        """µs of what is no layer's, for each layer on the rung: so that all of them on it take what was measured."""
        found = self._ladder[rung]
        if not found.fits:
            return 0.0
        return (found.whole_us - sum(self._parts(dict.fromkeys(found.fits, rung)).values())) / len(found.fits)

    def _whole(self, assignment: Assignment) -> dict[str, Rung]:
        """With all layers, in the order of the model."""
        for site in assignment:
            self._require_site(site)
        return {site: assignment.get(site, DENSE) for site in self._ladder[DENSE].fits}

    def _between(self, site: str, rung: Rung) -> list[tuple[Rung, float]]:
        """The rungs measured that say something of this one, and how much each counts."""
        neighbours = [(rung, 1.0)] if rung in self._ladder else self._neighbours(rung)
        for known, _ in neighbours:
            if site not in self._ladder[known].fits:
                raise UserError(f"layer {site!r}: cannot be {known}; it can be {', '.join(map(str, self.rungs(site)))}")
        return neighbours

    def _neighbours(self, rung: Rung) -> list[tuple[Rung, float]]:
        known = sorted(((one.level, one) for one in self._ladder if one.family == rung.family and one.level is not None), key=itemgetter(0))
        below = [one for level, one in known if rung.level is not None and level < rung.level]
        above = [one for level, one in known if rung.level is not None and level > rung.level]
        if not below or not above:
            names = [str(one) for one in self._ladder]
            raise UserError(f"rung {str(rung)!r} was not measured, and lies between no two that were{did_you_mean(str(rung), names)}")
        low, high = below[-1], above[0]
        assert low.level is not None and high.level is not None and rung.level is not None
        share = (rung.level - low.level) / (high.level - low.level)
        return [(low, 1 - share), (high, share)]

    def _require_site(self, site: str) -> None:
        known = self._ladder[DENSE].fits
        if site not in known:
            raise UserError(f"the model has no layer {site!r}{did_you_mean(site, list(known))}")


_Prepared = tuple[str, str, str]  # by which kernel, in which numbers, and one of the layers that read it


def _reads(ladder: Mapping[Rung, Measured]) -> dict[Rung, dict[str, dict[_Prepared, float]]]:
    """Rung → layer on it → what is prepared for it, and µs of that.

    Layers that read one input share what is prepared in one kind of numbers, whether all their zeros are alike or not.
    """
    together: nx.Graph[tuple[str, str, str]] = nx.Graph()
    for rung, found in ladder.items():
        for one in found.inputs:
            nx.add_path(together, [(one.kernel, rung.dtype, reader) for reader in one.readers])
    first = {node: min(group) for group in nx.connected_components(together) for node in group}
    reads: dict[Rung, dict[str, dict[_Prepared, float]]] = {}
    for rung, found in ladder.items():
        taken: defaultdict[str, defaultdict[_Prepared, float]] = defaultdict(lambda: defaultdict(float))
        for one in found.inputs:
            for reader in set(one.readers) & set(found.fits):
                taken[reader][first[one.kernel, rung.dtype, reader]] += one.us
        reads[rung] = {site: dict(what) for site, what in taken.items()}
    return reads


class _Meter:
    """Measures variants beside the dense model, unless the store knows them. dense_us: where the scale is known already."""

    def __init__(self, trials: Trials, store: Store, seconds: float, dense_us: float | None = None, dense: Variant | None = None) -> None:
        self.seconds = seconds
        self._trials, self._store, self._dense_us = trials, store, dense_us
        self._dense = dense

    def _key(self, **what: Any) -> dict[str, Any]:
        return {"model": self._trials.fingerprint, "target": self._trials.target_text, "code": self._trials.version, **what}

    def rung(self, rung: Rung) -> Measured:
        known = self._store.of(self._key(rung=str(rung)), lambda: self._measured(rung).to_dict())
        found = self._read(Measured.from_dict, known)
        if rung == DENSE:
            self._dense_us = found.whole_us
        return found

    def mixture(self, assignment: Assignment, recipe: Mapping[str, Any]) -> float:
        """µs of a whole call."""
        key = self._key(mixture={site: str(rung) for site, rung in assignment.items()})

        def measure() -> float | None:
            return self.beside_dense(self._trials.compile(recipe)) if assignment else self._dense_us

        return self._read(float, self._store.of(key, measure))

    def _measured(self, rung: Rung) -> Measured:
        tried, fits = self._everywhere(rung) if rung.narrow is None else self._narrower(rung)
        if not fits:
            return Measured(())
        variant = self._dense_model() if rung == DENSE else self._trials.compile(tried)
        profile = variant.profile_of(self._trials.example, seconds=self.seconds, rounds=_ROUNDS)
        whole_us = profile.whole_us.median if rung == DENSE else self.beside_dense(variant)
        if rung.pattern is not None or rung.dtype != DENSE.dtype:
            fits = self._trials.computed(variant, fits)
        return Measured.of(fits, profile, whole_us, variant.report, self._trials.sites)

    def _everywhere(self, rung: Rung) -> tuple[dict[str, Any], list[str]]:
        """The recipe that puts on a rung all layers that can be there, and their names."""
        tried = everywhere(rung, **_ON_RANDOM)
        passes, deeds = len(tried["passes"]), self._trials.deeds(tried)
        fits = [site for site, done in deeds.items() if done == passes]
        if fits and not {*deeds.values()} <= {0, passes}:  # on other layers only some of the passes do something
            tried = recipe(dict.fromkeys(fits, rung), **_ON_RANDOM)
        return tried, fits

    def _narrower(self, rung: Rung) -> tuple[dict[str, Any], list[str]]:
        """The same for groups of layers: all of a group, or none."""
        groups = self._trials.groups

        def on(sites: Iterable[str]) -> dict[str, Any]:
            return recipe(dict.fromkeys(sites, rung), groups=groups, **_ON_RANDOM)

        tried, passes = on(site for group in groups.values() for site in group.layers), 1 + (rung.dtype != DENSE.dtype)
        deeds = self._trials.deeds(tried)
        whole = {site for group in groups.values() if all(deeds[name] == passes for name in group.layers) for site in group.layers}
        fits = [site for site in deeds if site in whole]
        return on(fits), fits

    def beside_dense(self, variant: Variant) -> float:
        """µs of a call, on the scale on which the dense model takes what it took at first."""
        assert self._dense_us is not None, "the dense model is measured first"
        return self._dense_us / self._trials.faster(variant, self._dense_model(), self.seconds, _ROUNDS)

    def _dense_model(self) -> Variant:
        if self._dense is None:
            self._dense = self._trials.compile({"passes": []})
        return self._dense

    def _read(self, read: Callable[[Any], Any], known: Any) -> Any:
        try:
            return read(known)
        except (LookupError, TypeError, ValueError) as error:
            raise self._store.damaged(f"a measurement reads {error}") from error
