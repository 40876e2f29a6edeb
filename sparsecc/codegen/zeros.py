"""What about a weight's zeros a kernel is chosen by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WASTE = 1.1  # stored values per nonzero up to which rows are grouped into blocks
INDEX_BYTES = 2.0  # of a stored block or group


@dataclass(frozen=True)
class ZeroProfile:
    """What about a weight's zeros decides how long a sparse kernel takes, rounded so that layers pruned alike are one case.

    block_rows: see `common_rows`; 1 for groups and N:M.  density: stored blocks' share of all, two significant digits.
    unevenness: standard deviation over mean of blocks per row of blocks, in quarters.
    """

    block_rows: int
    density: float
    unevenness: float

    @staticmethod
    def of(matrix: np.ndarray) -> ZeroProfile:
        """In blocks of as many rows as have their zeros in common."""
        return ZeroProfile.of_blocks(matrix != 0, common_rows(matrix))

    @staticmethod
    def of_blocks(nonzero: np.ndarray, rows: int) -> ZeroProfile:
        """Of a mask whose blocks of `rows` × 1 are stored where they hold anything; the last ones may overlap those before."""
        per_row = in_blocks(nonzero, rows).reshape(-1, rows, nonzero.shape[1]).any(axis=1).sum(axis=1)
        mean = float(per_row.mean())
        uneven = round(4 * float(per_row.std()) / mean) / 4 if mean else 0.0
        return ZeroProfile(rows, float(f"{mean / nonzero.shape[1]:.2g}"), uneven)

    @property
    def index_bytes_of_blocks(self) -> float:
        """For each stored weight, where a block has one index."""
        return INDEX_BYTES / self.block_rows


def common_rows(matrix: np.ndarray, heights: Sequence[int] = (4, 2)) -> int:
    """How many neighbouring rows, the first of `heights` or 1, share their nonzero columns, whatever the format calls it."""
    nonzero = matrix != 0
    total = int(nonzero.sum())
    for rows in heights:
        if len(matrix) % rows == 0 and nonzero.reshape(-1, rows, matrix.shape[1]).any(axis=1).sum() * rows <= _WASTE * total:
            return rows
    return 1


def in_blocks(array: np.ndarray, height: int) -> np.ndarray:
    """[rows, ..] → [blocks · height, ..]: the last block holds the last `height` rows, or all there are and zeros."""
    rows = len(array)
    if rows < height:
        return np.concatenate([array, np.zeros((height - rows, *array.shape[1:]), array.dtype)])
    starts = np.minimum(np.arange(-(-rows // height)) * height, rows - height)
    return array if rows % height == 0 else array[(starts[:, None] + np.arange(height)).ravel()]
