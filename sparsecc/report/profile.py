"""Where the time of a compiled model goes: each call of its generated program, in the order of execution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sparsecc.timing import Spread


@dataclass(frozen=True)
class Row:
    """A call. symbol: of what is called, in the code.  kernel: the name of ours, None for an operator that TVM has scheduled.

    site: whose layer it computes.  readers: sites for which it prepares an input (rounds it, or copies it into planes), in one call for all
    of them. Neither for all other operators.  us: the median of one call.
    """

    symbol: str
    kernel: str | None
    site: str | None
    readers: tuple[str, ...]
    us: float

    @property
    def whose(self) -> str:
        if self.site is not None:
            return self.site
        return f"for {', '.join(self.readers)}" if self.readers else ""


@dataclass(frozen=True)
class Profile:
    """rows: in the order of execution.  whole_us: one call of the model as users make it, unwatched.
    watched: how many times as long it takes while every call is timed. Both from the same rounds, in turns."""

    rows: tuple[Row, ...]
    whole_us: Spread
    watched: Spread
    rounds: int
    threads: int

    @property
    def kernels_us(self) -> float:
        return sum(row.us for row in self.rows)

    @property
    def between(self) -> float:
        """The share of the whole call in which nothing of the rows runs: checks of the inputs, allocation, and the steps from call to
        call. A little below zero where the watched kernels took longer than they do unwatched."""
        return 1 - self.kernels_us / self.whole_us.median

    def by_site(self) -> dict[str, float]:
        """µs of all calls that compute a site's layer, in the order of execution."""
        found: dict[str, float] = {}
        for row in self.rows:
            if row.site is not None:
                found[row.site] = found.get(row.site, 0.0) + row.us
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "whole_us": self.whole_us.to_dict(),
            "watched": self.watched.to_dict(),
            "rounds": self.rounds,
            "threads": self.threads,
            "kernels_us": self.kernels_us,
            "between": self.between,
            "rows": [asdict(row) | {"readers": list(row.readers)} for row in self.rows],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Profile:
        """Inverse of `to_dict`. Raises LookupError, TypeError or ValueError for anything else."""
        rows = tuple(Row(row["symbol"], row["kernel"], row["site"], tuple(row["readers"]), row["us"]) for row in data["rows"])
        return cls(rows, Spread(**data["whole_us"]), Spread(**data["watched"]), int(data["rounds"]), int(data["threads"]))

    def __str__(self) -> str:
        head = ("µs", "share", "kernel", "site")
        cells = [(f"{row.us:.1f}", f"{row.us / self.whole_us.median:.1%}", row.kernel or row.symbol, row.whose) for row in self.rows]
        return "\n".join([*_aligned(head, cells), *self._summary()])

    def _summary(self) -> list[str]:
        spread = self.whole_us
        return [
            f"{len(self.rows)} calls: {self.kernels_us:.0f} µs; between them {self.between:.1%}",
            f"whole call: {spread.median:.0f} µs ({spread.p10:.0f} to {spread.p90:.0f}, {self.rounds} rounds, {self.threads} threads); "
            f"{self.watched.median:.2f} times as long while it was watched",
        ]


def _aligned(head: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(line[column]) for line in (head, *cells)) for column in range(len(head))]

    def line(row: tuple[str, ...]) -> str:
        us, share, kernel, site = row
        return f"{us:>{widths[0]}}  {share:>{widths[1]}}  {kernel:<{widths[2]}}  {site}".rstrip()

    return [line(head), *map(line, cells)]
