"""The order in which blocks that stay take up tiles."""

from __future__ import annotations

from typing import Any

from sparsecc.codegen.cuda.script import T


def banded(index: Any, rows: int, columns: int, band: int) -> tuple[Any, Any]:
    """Row and column of the tile `index` (uint32) of rows · columns: bands of `band` rows, each walked column by column.

    Tiles that are computed at a time then share few rows and few columns, which L2 holds: with 132 blocks and bands of 16 these are 16 rows
    and 9 columns, in the order of whole rows 5 and 32.
    """
    within = index % (band * columns)
    first = index // (band * columns) * band
    if rows % band == 0:
        return first + within % band, within // band
    height = T.min(rows - first, T.uint32(band))
    return first + within % height, within // height
