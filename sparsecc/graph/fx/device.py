"""A graph module on another device: its tensors, and the operators that name one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.node import map_aggregate

from sparsecc.graph.fx.layers import stored


def device_of(module: nn.Module) -> torch.device:
    """Where its first parameter or buffer lies; the CPU without any."""
    return next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def moved(module: GraphModule, device: torch.device) -> GraphModule:
    """A copy there. What several nodes read stays one tensor."""
    tensors = [*module.parameters(), *module.buffers(), *(stored(node) for node in module.graph.find_nodes(op="get_attr"))]
    result = copy.deepcopy(module, {id(tensor): _on(tensor, device) for tensor in _distinct(tensors)})

    def named(argument: Any) -> Any:
        return device if isinstance(argument, torch.device) else argument

    for node in result.graph.nodes:
        node.args, node.kwargs = map_aggregate(node.args, named), map_aggregate(node.kwargs, named)
    result.recompile()
    return result


def _distinct(tensors: list[Tensor | None]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors if tensor is not None}.values())


def _on(tensor: Tensor, device: torch.device) -> Tensor:
    there = tensor.detach().to(device)
    return nn.Parameter(there, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else there
