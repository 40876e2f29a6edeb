from __future__ import annotations

import pytest
import torch

from sparsecc.errors import Refused
from sparsecc.formats._index import MAX_STORED, check_stored, column_dtype, kept_columns, required, row_pointers

KEEP = torch.tensor([[False, True, True], [False, False, False], [True, False, True]])


def test_where_rows_start_and_what_they_keep() -> None:
    assert row_pointers(KEEP).tolist() == [0, 2, 2, 4]
    assert kept_columns(KEEP).tolist() == [1, 2, 0, 2]


def test_the_narrowest_type_that_holds_every_column() -> None:
    assert column_dtype(65_535) == torch.uint16
    assert column_dtype(65_536) == torch.int32


def test_row_pointers_can_count_so_far() -> None:
    assert check_stored(MAX_STORED) is None
    assert "more than int32" in str(check_stored(MAX_STORED + 1))


def test_what_was_refused_is_not_packed() -> None:
    assert required(KEEP) is KEEP
    with pytest.raises(ValueError, match="cannot be packed: too wide"):
        required(Refused("too wide"))
