"""Pictures of what reordering does to heads: attention mass by blocks in raster order, in the head's own order, and what is kept."""

# pyright: reportUnknownMemberType=false
# matplotlib has types for some of its arguments only.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from sparsecc.errors import UserError
from sparsecc.files import replacing

FLOOR = 1e-3  # of the heaviest block; below, everything is drawn alike
MOST = 128  # blocks a side; of more, as many as needed are added up


@dataclass(frozen=True, eq=False)
class HeadMap:
    """raster, reordered: float[query_blocks, key_blocks], the mass of each block.  keep: bool, of the reordered map.  order: its name.
    title: of the head."""

    raster: Any
    reordered: Any
    keep: Any
    order: str = ""
    title: str = ""


def picture(path: str | PathLike[str], heads: Sequence[HeadMap], *, title: str = "") -> None:
    """Write a PNG with a row for each head.

    Raises UserError when matplotlib is not installed.
    """
    try:
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("pictures need matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(12, 0.5 + 3.9 * len(heads)), layout="constrained")
    figure.suptitle(title)
    for part, head in zip(figure.subfigures(len(heads), 1, squeeze=False)[:, 0], heads, strict=True):
        raster, reordered, kept = (_coarse(mass) for mass in (head.raster, head.reordered, np.where(head.keep, head.reordered, 0)))
        heaviest = max(raster.max(), reordered.max())
        shade = {"cmap": "magma", "norm": LogNorm(FLOOR * heaviest, heaviest), "interpolation": "nearest"}
        kept = np.where(_coarse(head.keep) > 0, kept, np.nan)
        names = ("raster order", head.order or "the model's order", f"kept, {np.asarray(head.keep).mean():.0%}")
        axes, images = part.subplots(1, 3), list[Any]()
        for ax, mass, name in zip(axes, (raster, reordered, kept), names, strict=True):
            images.append(ax.imshow(np.maximum(mass, FLOOR * heaviest), extent=(0, len(head.keep), len(head.keep), 0), **shade))
            ax.set(title=name, xlabel="key block")
        axes[0].set_ylabel("query block")
        if head.title:
            axes[1].set_title(f"{head.title}\n{names[1]}")
        part.colorbar(images[-1], ax=list(axes), label="attention mass, in queries")
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _coarse(values: Any) -> np.ndarray:
    """float[at most MOST, at most MOST]: sums over squares of neighbours."""
    values = np.asarray(values, float)
    size = -(-len(values) // MOST)
    starts = np.arange(0, len(values), size)
    return np.add.reduceat(np.add.reduceat(values, starts, 0), starts, 1)
