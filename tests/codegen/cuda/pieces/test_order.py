from __future__ import annotations

import pytest

from sparsecc.codegen.cuda.pieces.order import banded
from sparsecc.codegen.tvm_api import T


@pytest.mark.parametrize(("rows", "columns", "band"), [(32, 5, 16), (7, 3, 4), (3, 4, 8), (1, 1, 1)])
def test_every_tile_once(rows: int, columns: int, band: int) -> None:
    found = [tuple(int(part) for part in banded(T.uint32(index), rows, columns, band)) for index in range(rows * columns)]
    assert sorted(found) == [(row, column) for row in range(rows) for column in range(columns)]
    assert found[: min(band, rows)] == [(row, 0) for row in range(min(band, rows))]
