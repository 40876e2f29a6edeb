"""Weights that we have trained ourselves and keep in the repository: models/weights/NAME.safetensors, in half precision."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from sparsecc.errors import ModelError

FOLDER = Path(__file__).parent / "weights"


def trained(module: nn.Module, name: str) -> nn.Module:
    """The module with its weights, in eval mode, gradients off.

    Raises ModelError where there are none, or those of another architecture.
    """
    from safetensors.torch import load_file

    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        raise ModelError(f"{path}: no weights; run: python -m models.train.{name}")
    try:
        module.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelError(f"{path}: weights of another architecture ({reason}); run: python -m models.train.{name}") from None
    return module.eval().requires_grad_(False)


def keep(module: nn.Module, name: str) -> Path:
    """Write the weights and return where."""
    from safetensors.torch import save_file

    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.safetensors"
    save_file({key: value.detach().to("cpu", torch.float16).contiguous() for key, value in module.state_dict().items()}, path)
    return path
