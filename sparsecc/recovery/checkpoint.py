"""The state of a long pass in a file, so that it can be stopped and resumed: tensors and numbers, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as serialized
from torch import Tensor

from sparsecc.errors import UserError
from sparsecc.files import replacing, require_regular


def key(setting: Any, tensors: Sequence[Tensor]) -> str:
    """What a state belongs to: a setting with a repr of its own, and all tensors that it comes from."""
    digest = hashlib.sha256(repr(setting).encode())
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(path: str, belongs: str, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> None:
    """Write the file whole or not at all."""
    note = {"sparsecc": "checkpoint", "key": belongs, "numbers": json.dumps(dict(numbers))}
    content = serialized({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, note)
    with replacing(path) as temporary:
        Path(temporary).write_bytes(content)


def load(path: str, belongs: str) -> tuple[dict[str, Tensor], dict[str, float]] | None:
    """The tensors and numbers; None where there is no file. Raises UserError where it holds something else."""
    if not Path(path).exists():
        return None
    require_regular(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            note = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"checkpoint {path}: cannot be read: {error}; delete it to begin anew") from None
    if note.get("key") != belongs:
        raise UserError(f"checkpoint {path}: is of another model, recipe or calibration; delete it, or name another file")
    return tensors, json.loads(note["numbers"])
