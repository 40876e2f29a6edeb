"""Training with masks: zeros that are chosen while the weights train. Members: cast, gmp, granet, rigl, set, sr_ste, srigl."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from sparsecc.train._handle import Handle
    from sparsecc.train.base import Method


def attach(model: nn.Module, recipe: Method | Mapping[str, Any] | str | PathLike[str], *, optimizer: Optimizer) -> Handle:
    """Put masks on the layers of a model that is about to train; every step of `optimizer` then keeps them, and moves them when it is time.

    recipe: `method` and the fields of that method, as a mapping or in a YAML file, or the method itself.
    optimizer: the one that trains the weights. The loop stays as it is: masks hang on the optimizer's steps, so that no forgotten or
    misplaced call can fill zeros, and steps that are left out (by a GradScaler) do not count.

    Attach once the model is on its device and the optimizer is made, and before a checkpoint is loaded. Layers that cannot take the
    pattern stay dense, `Handle.layers` says why. Raises RecipeError for a wrong recipe, UserError when no layer is left.
    """
    from sparsecc.train._handle import Handle
    from sparsecc.train._recipe import read

    return Handle(model, read(recipe), optimizer)
