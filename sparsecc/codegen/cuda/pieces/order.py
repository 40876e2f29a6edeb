"""The order in which blocks that stay take up tiles."""

from __future__ import annotations

from typing import Any

from sparsecc.codegen.cuda.script import T


def banded(index: Any, rows: int, columns: Any, band: int) -> tuple[Any, Any]:
    """Row and column of the tile `index` of rows · columns: bands of `band` rows, each walked column by column. index: uint32.  columns: a
    number, or uint32.

    Tiles that are computed at a time then share few rows and few columns, which L2 holds: with 132 blocks and bands of 16 these are 16 rows
    and 9 columns, in the order of whole rows 5 and 32.
    """
    within, first = index % (band * columns), index // (band * columns) * band
    height = band if isinstance(rows, int) and rows % band == 0 else T.min(rows - first, T.uint32(band))
    return first + within % height, within // height
