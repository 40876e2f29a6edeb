"""The index tensors that formats share: row pointers and column indices of what is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsecc.errors import Refused

MAX_STORED = 2**31 - 1  # row_ptr is int32


def column_dtype(columns: int) -> torch.dtype:
    """The type of column indices below `columns`."""
    return torch.int32 if columns > 65535 else torch.uint16


def check_stored(units: int) -> Refused | None:
    return Refused(f"{units} stored units are more than int32 row pointers can count") if units > MAX_STORED else None


def row_pointers(keep: Tensor) -> Tensor:
    """int32[rows + 1]: where each row's kept entries start, for keep: bool[rows, cols]."""
    ends = keep.sum(dim=1).cumsum(0)
    return torch.cat([ends.new_zeros(1), ends]).to(torch.int32)


def kept_columns(keep: Tensor) -> Tensor:
    """The column of each kept entry, row by row."""
    columns = torch.arange(keep.shape[1], dtype=torch.int32, device=keep.device)
    return columns.expand(keep.shape)[keep].to(column_dtype(keep.shape[1]))


def required(mask: Tensor | Refused) -> Tensor:
    """The mask. Raises ValueError when there is none: the caller has skipped the format's `check` or the pattern's `cover`."""
    if isinstance(mask, Tensor):
        return mask
    raise ValueError(f"cannot be packed: {mask.reason}")
