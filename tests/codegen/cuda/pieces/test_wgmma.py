from __future__ import annotations

import numpy as np

from sparsecc.codegen.cuda.pieces.wgmma import swizzled


def test_chunks_of_a_column_lie_in_different_banks() -> None:
    """The 128-byte swizzle: address bits 4 to 6 are those of the chunk, changed by bits 7 to 9, which count rows."""
    row, chunk = np.meshgrid(np.arange(64), np.arange(8), indexing="ij")
    address = swizzled(row, chunk)
    straight = row * 128 + chunk * 16
    assert np.array_equal(address, straight ^ (straight >> 7 & 7) << 4)
    assert len(np.unique(address)) == address.size
    assert all(len(np.unique(address[first : first + 8, 3] % 128)) == 8 for first in range(0, 64, 8))
