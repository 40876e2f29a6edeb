"""What a search tells while it runs: where it is, the best so far, and how much time is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sparsecc.autotune.budget import Budget
from sparsecc.autotune.search import Search, Tried
from sparsecc.calibration.context import Progress

Said = Callable[[Progress], None]


def with_time(progress: Said | None, budget: Budget) -> Said | None:
    """Adds the minutes left to each note."""
    if progress is None:
        return None

    def told(now: Progress) -> None:
        left = max(budget.left, 0.0) / 60
        progress(replace(now, note=", ".join(filter(None, [now.note, f"{left:.1f} minutes left"]))))

    return told


def tell(progress: Said | None, one: Tried, looking: Search) -> None:
    """Of a model that was made."""
    if progress is not None:
        best = looking.best
        note = f"{one.ms:.2f} ms" + ("" if best is None else f", best so far {best.ms:.2f} ms")
        what = "recovering models" if one.recovered else "trying models"
        count = sum(other.recovered == one.recovered for other in looking.tried)
        progress(Progress(what, count, count + 1, note))
