"""Tensors in files, for models that are larger than memory."""

from __future__ import annotations

import tempfile
from os import PathLike

import torch
from torch import Tensor

from sparsecc.errors import UserError


def in_scratch(tensor: Tensor, folder: str | PathLike[str] | None) -> Tensor:
    """The same values in the same layout, mapped from a file in `folder`, whose pages the system can drop and read again; None: the
    tensor as it is. The file has no name any more, and goes when the tensor does.

    Raises UserError where it cannot be written, as on a full disk.
    """
    if folder is None or not tensor.numel():
        return tensor
    turned = tensor.dim() == 2 and not tensor.is_contiguous()
    rows = (tensor.t() if turned else tensor).detach().cpu().contiguous()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # which has no name at any time, so that a kill leaves nothing
            file.write(rows.reshape(-1).view(torch.uint8).numpy().data)
            file.flush()
            name = f"/proc/self/fd/{file.fileno()}"
            mapped = torch.from_file(name, shared=False, size=rows.numel(), dtype=rows.dtype).reshape(rows.shape)
    except OSError as error:
        raise UserError(f"{folder}: a pruned weight cannot be written there: {error.strerror or error}") from None
    return mapped.t() if turned else mapped
