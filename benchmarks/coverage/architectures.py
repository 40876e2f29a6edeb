"""Architectures of four libraries, small and with drawn weights: one table for each library, all of them here by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

_LIBRARIES = ("transformers", "timm", "torchvision", "diffusers")
Inputs = dict[str, Any] | tuple[Any, ...]


@dataclass(frozen=True)
class Architecture:
    """name: "timm/resnet18d".  make: the module with the weights that the library draws.  inputs: drawn at each call."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        return enliven(self.make().eval())

    def example(self, seed: int) -> Inputs:
        torch.manual_seed(seed)
        return self.inputs()


@cache
def architectures() -> dict[str, Architecture]:
    """Nothing of the libraries is imported before `make`."""
    tables = [import_module(f"benchmarks.coverage.from_{library}").TABLE for library in _LIBRARIES]
    return {architecture.name: architecture for table in tables for architecture in table}


def enliven(module: nn.Module) -> nn.Module:
    """Draw what libraries set to one value: zero biases, scales of 1 or 1e-6, statistics. A graph that dropped them would pass else."""
    generator = torch.Generator().manual_seed(0)
    tensors = dict(module.named_parameters()) | {n: b for n, b in module.named_buffers() if n.endswith(("running_mean", "running_var"))}
    with torch.no_grad():
        for name, tensor in tensors.items():
            if not tensor.is_floating_point() or not tensor.numel() or tensor.min() != tensor.max():
                continue
            noise = 0.1 * torch.randn(tensor.shape, generator=generator)
            tensor.copy_(tensor + (noise.abs() if name.endswith("running_var") else noise).to(tensor.dtype))
    return module


def image(size: int, batch: int = 1) -> tuple[torch.Tensor, ...]:
    return (torch.randn(batch, 3, size, size),)
