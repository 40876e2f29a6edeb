"""What passes did at each layer and why not more, noted on the way: what a report says of it is read off here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sparsecc.report.base import HeadReport


@dataclass(frozen=True, kw_only=True)
class Entry:
    """step: the pass, as recipes call it.  site: the layer's name.  done: what it did, in words, None where it refused.
    refused: why.  pattern: which zeros it was asked for, if any.  stored: the share of the weights that this pattern stored then.
    heads: what was done to each head of an attention."""

    step: str
    site: str
    done: str | None = None
    refused: str | None = None
    pattern: str | None = None
    stored: float | None = None
    heads: tuple[HeadReport, ...] = ()


@dataclass
class Ledger:
    """Entries in the order in which they were made: passes in the order of the recipe, sites in that of the model."""

    _by_site: dict[str, list[Entry]] = field(default_factory=dict[str, list[Entry]])

    def add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._by_site.setdefault(entry.site, []).append(entry)

    def of(self, site: str) -> Sequence[Entry]:
        return self._by_site.get(site, ())

    def sites(self) -> set[str]:
        """Those that some pass looked at."""
        return set(self._by_site)

    def reason(self, site: str) -> str:
        """The first refusal, unless a later pass took the site after all: what later passes miss follows from it. "" for none."""
        reason = ""
        for entry in self.of(site):
            reason = "" if entry.refused is None else reason or entry.refused
        return reason

    def refusals(self, site: str) -> tuple[str, ...]:
        """What each pass that refused it said."""
        return tuple(f"{entry.step}: {entry.refused}" for entry in self.of(site) if entry.refused is not None)

    def deeds(self, site: str) -> str:
        """What was done, pass by pass; "" for nothing."""
        return "; ".join(f"{entry.step}: {entry.done}" for entry in self.of(site) if entry.done is not None)

    def last(self, site: str) -> str:
        """What the last pass that did something did; "" for nothing."""
        return next((entry.done for entry in reversed(self.of(site)) if entry.done is not None), "")

    def heads(self, site: str) -> tuple[HeadReport, ...]:
        """What the last pass that looked at them did to each head."""
        return next((entry.heads for entry in reversed(self.of(site)) if entry.heads), ())

    def asked(self, site: str) -> Entry | None:
        """The last entry of a pass that gave it a pattern."""
        return next((entry for entry in reversed(self.of(site)) if entry.pattern is not None and entry.done is not None), None)
