from __future__ import annotations

import numpy as np
import pytest

from sparsecc.codegen.cuda.pieces.wgmma import swizzled


@pytest.mark.parametrize("width", [64, 128])
def test_chunks_of_a_column_lie_in_different_banks(width: int) -> None:
    """A swizzle of 128 (64) bytes: bits 4 to 6 (5) of an address are those of the chunk, changed by bits 7 to 9 (8)."""
    row, chunk = np.meshgrid(np.arange(64), np.arange(width // 16), indexing="ij")
    address = swizzled(row, chunk, width)
    straight = row * width + chunk * 16
    assert np.array_equal(address, straight ^ (straight >> 7 & width // 16 - 1) << 4)
    assert len(np.unique(address)) == address.size
    assert all(len(np.unique(address[first : first + 8, 3] % 128)) == 8 for first in range(0, 64, 8))
