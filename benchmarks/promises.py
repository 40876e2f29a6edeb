"""What has to be reached, whatever the unit: one line each in the table of `benchmarks.cpu`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.results import markdown_table
from sparsecc.timing import Spread


@dataclass(frozen=True)
class Promise:
    """part: what is measured.  what: the row of it.  baseline: what the figure is a ratio of.  ms: the median, where times are compared.
    most: `wanted` may not be exceeded; otherwise it has to be reached.  right: whether the outputs are, too."""

    part: str
    what: str
    baseline: str
    measured: Spread
    wanted: float
    most: bool = False
    right: bool = True
    ms: float | None = None

    @property
    def reached(self) -> bool:
        """Compared at full precision; the table rounds."""
        enough = self.measured.median <= self.wanted if self.most else self.measured.median >= self.wanted
        return enough and self.right

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "reached": self.reached}


def promise_of(row: Mapping[str, Any], part: str, baseline: str, times: Mapping[str, float] | None = None) -> Promise:
    """Of a row of the benchmarks that time in turns.  times: its speed-up, where that has another name."""
    measured, ms = Spread(**(times or row["speedup"])), row["ms"]["median"]
    return Promise(part, row["name"], baseline, measured, row["at_least"], right=row.get("right", True), ms=ms)


def promise_table(promises: Sequence[Promise]) -> str:
    return markdown_table(["what", "row", *HEAD], [[promise.part, promise.what, *cells(promise)] for promise in promises])


HEAD = ("ms", "baseline", "times baseline", "p10-p90", "wanted", "")


def cells(promise: Promise) -> list[str]:
    """What was measured and wanted, in the order of `HEAD`."""
    got = promise.measured
    return [
        "" if promise.ms is None else f"{promise.ms:.3g}",
        promise.baseline,
        f"{got.median:.2f}",
        f"{got.p10:.2f}-{got.p90:.2f}",
        f"{'at most' if promise.most else 'at least'} {promise.wanted:.2f}",
        ("reached" if promise.reached else "missed") + ("" if promise.right else ", outputs wrong"),
    ]
