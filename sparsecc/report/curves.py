"""The picture of a sensitivity report: one curve for each layer."""

# pyright: reportUnknownMemberType=false
# matplotlib has types for some of its arguments only.

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from sparsecc.errors import UserError
from sparsecc.report.table import printable

if TYPE_CHECKING:
    from sparsecc.report.sensitivity import SensitivityReport

_ROWS = 40  # of a column of the legend
_DASHES = ("-", "--", ":")  # by turns: neighbours in the legend differ in more than a shade
_LONGEST = 42  # letters of a name


def picture(report: SensitivityReport) -> bytes:
    """A PNG: error of the model over the sparsity of one layer, logarithmic; colours run from the first layer to the last, a dot is a knee.

    Raises UserError when matplotlib is not installed, or no layer was measured.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogFormatter
    except ImportError:
        raise UserError("pictures need matplotlib: pip install matplotlib") from None
    if not report.sites:
        raise UserError("there is no curve to draw: every layer was skipped")
    columns = math.ceil(len(report.sites) / _ROWS)
    figure = Figure(figsize=(9 + 3.6 * columns, 7.5), layout="constrained")
    ax, knees = figure.subplots(), report.knees()
    colours = colormaps["turbo"]
    for i, site in enumerate(report.sites):
        colour = colours(0.05 + 0.9 * i / max(1, len(report.sites) - 1))
        shown = [100 * error if 0 < error < math.inf else math.nan for error in site.errors]
        ax.plot(report.levels, shown, _DASHES[i % len(_DASHES)], color=colour, linewidth=1.4, label=_short(site.name))
        knee = knees[site.name]
        if knee is not None:
            ax.plot([knee], [shown[report.levels.index(knee)]], "o", color=colour, markersize=4)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(LogFormatter())
    ax.yaxis.set_minor_formatter(LogFormatter())
    ax.set(
        xlabel=f"sparsity of the layer, {report.pattern} by {report.criterion}",
        ylabel="relative error of the model's outputs, %",
        title=f"{_short(report.model).strip()}: one layer pruned at a time",
    )
    ax.grid(which="both", alpha=0.25)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=7, ncols=columns)
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=110)
    return written.getvalue()


def _short(name: str) -> str:
    """The end of a long name, which tells layers apart. matplotlib drops labels that begin with _, and sets $ as mathematics."""
    name = printable(name)
    return (f"…{name[-_LONGEST:]}" if len(name) > _LONGEST else f" {name}").replace("$", r"\$")
