"""A picture of what reordering does to one head: its attention mass by blocks in raster order, in its own order, and what is kept."""

# pyright: reportUnknownMemberType=false
# matplotlib has types for some of its arguments only.

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from sparsecc.errors import UserError
from sparsecc.files import replacing

FLOOR = 1e-3  # of the heaviest block; below, everything is drawn alike


def picture(path: str | PathLike[str], raster: Any, reordered: Any, keep: Any, *, title: str = "", order: str = "") -> None:
    """Write a PNG. raster, reordered: float[query_blocks, key_blocks], the mass of each block.  keep: bool, of the reordered map.

    Raises UserError when matplotlib is not installed.
    """
    try:
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("pictures need matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    heaviest = max(float(np.max(raster)), float(np.max(reordered)))
    shade = {"cmap": "magma", "norm": LogNorm(FLOOR * heaviest, heaviest), "interpolation": "nearest"}
    kept = np.where(np.asarray(keep), np.asarray(reordered), np.nan)
    share = float(np.asarray(keep).mean())
    axes, images = figure.subplots(1, 3), list[Any]()
    for ax, mass, name in zip(axes, (raster, reordered, kept), ("raster order", order or "reordered", f"kept, {share:.0%}"), strict=True):
        images.append(ax.imshow(np.maximum(mass, FLOOR * heaviest), **shade))
        ax.set(title=name, xlabel="key block")
    axes[0].set_ylabel("query block")
    figure.colorbar(images[-1], ax=list(axes), label="attention mass, in queries")
    figure.suptitle(title)
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
