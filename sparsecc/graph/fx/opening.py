"""What a module and its example inputs have to be to be traced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from sparsecc.errors import InputError, ModelError
from sparsecc.graph.fx.trace import Inputs
from sparsecc.graph.inputs import as_tensor


def check_loaded(module: nn.Module) -> None:
    """Raises ModelError for a weight that is a shape alone."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta or isinstance(tensor, FakeTensor):
            raise ModelError(f"weight '{name}' is on the meta device, it has a shape and no values; load the weights first")


def check_kinds(module: nn.Module) -> None:
    """Raises ModelError for modules whose code torch.export does not see."""
    for name, part in module.named_modules():
        place = f"module '{name}'" if name else "the model"
        if isinstance(part, torch.jit.ScriptModule):
            raise ModelError(f"{place} is TorchScript, which cannot be traced; give the nn.Module that it was made from")
        if type(part).__module__.startswith("torch.ao.nn.quantized"):
            raise ModelError(f"{place} is quantized by torch ({type(part).__name__}); give the float model, and quantize in the recipe")


def example(inputs: Any, device: torch.device) -> Inputs:
    """Example inputs as arguments and keyword arguments on a device. Raises InputError for one without values."""

    def tensor(leaf: Any) -> Any:
        if not hasattr(leaf, "__array__") and not isinstance(leaf, Tensor):
            return leaf
        given = as_tensor(leaf, "an example input")
        if given.is_meta or isinstance(given, FakeTensor):
            raise InputError("an example input is a meta tensor; pass one that holds all its values")
        if given.layout is not torch.strided:
            raise InputError(f"an example input is a {str(given.layout).removeprefix('torch.')} tensor; pass one that holds all its values")
        return given.to(device)

    if isinstance(inputs, Mapping):
        return (), pytree.tree_map(tensor, dict(inputs))
    args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    return pytree.tree_map(tensor, args), {}
