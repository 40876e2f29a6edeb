"""What pruning one layer does to the whole model, for every layer: as a table, as JSON, as a picture and as a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sparsecc.report.table import WIDTH, printable


@dataclass(frozen=True, kw_only=True)
class LayerCurve:
    """One layer, pruned alone to each of the report's levels.

    gain: a, the relative squared error of the model's outputs for one of 1 of the layer's own, measured with a small one.
    errors: relative, of the model's outputs; infinite where it overflows.  layer_errors: relative, of the layer's own output.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    gain: float
    errors: tuple[float, ...]
    layer_errors: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SensitivityReport:
    """levels: sparsities, rising.  samples: of calibration, on which the model ran.  sites: in execution order.
    skipped: name → reason, of layers that cannot be pruned so."""

    sparsecc: str
    model: str
    criterion: str
    pattern: str
    samples: int
    levels: tuple[float, ...]
    sites: tuple[LayerCurve, ...]
    skipped: dict[str, str]

    def knees(self) -> dict[str, float | None]:
        """By layer: `knee` of its curve."""
        return {site.name: knee(self.levels, site.errors) for site in self.sites}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, knees included."""
        knees = self.knees()
        return {**asdict(self), "sites": [{**asdict(site), "knee": knees[site.name]} for site in self.sites]}

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """As JSON; written to `path` when one is given."""
        from sparsecc.files import json_text, write_text

        text = json_text(self.to_dict())
        if path is not None:
            write_text(path, text)
        return text

    def to_html(self, path: str | PathLike[str] | None = None) -> str:
        """As one self-contained page, with the picture where matplotlib is installed; written to `path` when one is given."""
        from sparsecc.files import write_text
        from sparsecc.report.html import sensitivity_page

        text = sensitivity_page(self)
        if path is not None:
            write_text(path, text)
        return text

    def plot(self, path: str | PathLike[str]) -> None:
        """Write the curves as a PNG. Raises UserError when matplotlib is not installed."""
        from sparsecc.files import replacing
        from sparsecc.report.curves import picture

        data = picture(self)
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(data)

    def columns(self) -> list[str]:
        return ["site", "shape", "a", "knee", *(f"{level:.4g}" for level in self.levels)]

    def rows(self) -> list[list[str]]:
        """Cells in the order of the columns; the errors of the model, in %, last."""
        knees = self.knees()
        return [
            [
                printable(site.name),
                "×".join(map(str, site.shape)),
                f"{site.gain:.2g}",
                "" if knees[site.name] is None else f"{knees[site.name]:.2f}",
                *(_percent(error) for error in site.errors),
            ]
            for site in self.sites
        ]

    def notes(self) -> list[str]:
        """What the numbers are, and what was left out."""
        lines = [
            f"{self.pattern} by {self.criterion}, one layer at a time, on {self.samples} samples; columns of levels: "
            "relative error of the model's outputs at that sparsity, in %",
            "a: what the model's squared error is of the layer's own; knee: where the curve lies farthest below its chord",
        ]
        reasons: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(printable(name))
        return [*lines, *(f"skipped: {reason} ({', '.join(names)})" for reason, names in reasons.items())]

    def __str__(self) -> str:
        table = Table(title=f"Sensitivity of {printable(self.model)}", title_justify="left", box=None, pad_edge=False)
        for column in self.columns():
            text = column in ("site", "shape")
            table.add_column(column, justify="left" if text else "right", overflow="fold", no_wrap=column != "site")
        for row in self.rows():
            table.add_row(*row)
        written = io.StringIO()
        console = Console(file=written, width=WIDTH, color_system=None, highlight=False, markup=False, emoji=False)
        console.print(table)
        return "\n".join(line.rstrip() for line in [*written.getvalue().splitlines(), *self.notes()])


def knee(levels: Sequence[float], errors: Sequence[float]) -> float | None:
    """The essential sparsity of a curve: the level at which it lies farthest below the chord from (0, 0) to its last finite point.

    Up to there more zeros cost little, beyond it they cost ever more. None where the curve is nowhere below its chord.
    """
    finite = [(level, error) for level, error in zip(levels, errors, strict=True) if error < float("inf")]
    if not finite or not finite[-1][1]:
        return None
    last, most = finite[-1]
    below = [(error / most - level / last, level) for level, error in finite[:-1]]
    deepest, level = min(below, default=(0.0, 0.0))
    return level if deepest < 0 else None


def _percent(error: float) -> str:
    return f"{100 * error:.2g}" if error < 0.1 else f"{100 * error:.0f}"
