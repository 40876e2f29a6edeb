"""What a search has found, as data, lines and a page: a row for each model that was made, and a picture of time against quality."""

# pyright: reportUnknownMemberType=false
# matplotlib has types for some of its arguments only.

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sparsecc.errors import UserError
from sparsecc.report.html import rendered


@dataclass(frozen=True)
class SearchRow:
    """One model. recipe: in one line.  quality: of the metric that counts.  front: whether none is better in both.  best: whether it is
    the one that was chosen.  misses: conditions of the goal that do not hold, in words.  recovered: whether its weights have
    learnt after they were pruned."""

    ms: float
    predicted_ms: float
    bytes: int
    quality: float
    error: float
    recipe: str
    front: bool = False
    best: bool = False
    misses: tuple[str, ...] = ()
    recovered: bool = False

    @property
    def marks(self) -> str:
        """In words, what it is."""
        place = "best" if self.best else "front" if self.front else ""
        return ", ".join(filter(None, [place, "recovered" if self.recovered else ""]))


@dataclass(frozen=True)
class SearchReport:
    """verdict: whether the goal is met, and by what.  metric: whose values `quality` are.  machine: on which models were timed.
    command: that goes on, or shows this again.  notes: a sentence on each thing to know."""

    sparsecc: str
    model: str
    goal: str
    met: bool
    verdict: str
    metric: str
    machine: str
    seconds: float
    rows: tuple[SearchRow, ...]
    command: str = ""
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_html(self) -> str:
        """A page that loads nothing from elsewhere; the picture is in it where matplotlib is installed."""
        try:
            drawn = b64encode(picture(self)).decode()
        except UserError:
            drawn = ""  # the table says it all
        return rendered("search.html.jinja", report=self, picture=drawn)

    def __str__(self) -> str:
        dense = self.rows[0].ms
        lines = [self.verdict, *self.notes]
        for row in self.rows:
            size = f"{row.bytes / 1e6:.2f} MB"
            lines.append(
                f"{row.ms:8.3f} ms  {dense / row.ms:5.2f}x  {size:>10}  {self.metric} {row.quality:.5g}  {row.marks:16}  {row.recipe}"
            )
        return "\n".join(lines)


def picture(report: SearchReport) -> bytes:
    """A PNG: quality over milliseconds, a dot for each model, those on the front joined. Raises UserError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("pictures need matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    ax = figure.subplots()
    front = sorted((row for row in report.rows if row.front), key=lambda row: row.ms)
    ax.plot([row.ms for row in report.rows], [row.quality for row in report.rows], "o", color="#9aa5b1", label="made and measured")
    ax.plot([row.ms for row in front], [row.quality for row in front], "o-", color="#1f6feb", label="none better in both")
    learnt = [row for row in report.rows if row.recovered]
    if learnt:
        ax.plot([row.ms for row in learnt], [row.quality for row in learnt], "D", color="#1a7f37", markersize=6, label="recovered")
    for row in report.rows[:1]:
        ax.plot([row.ms], [row.quality], "s", color="#57606a", markersize=8, label="dense")
    for row in report.rows:
        if row.best:
            ax.plot([row.ms], [row.quality], "*", color="#cf222e", markersize=16, label="chosen")
    ax.set(xlabel=f"ms a call, {report.machine}", ylabel=report.metric, title=f"{report.model}: {report.goal}".replace("$", r"\$"))
    ax.grid(alpha=0.25)
    ax.legend()
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=110)
    return written.getvalue()


def shown(measured: Mapping[str, float], key: str) -> float:
    """A metric's value; NaN where it was not measured."""
    return float(measured.get(key, float("nan")))
