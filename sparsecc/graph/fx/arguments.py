"""From a caller's inputs to the arguments of a traced module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from sparsecc.errors import InputError
from sparsecc.graph.base import TensorSpec
from sparsecc.graph.fx import trace
from sparsecc.graph.inputs import bind


class Arguments:
    """guards: a module that asserts the conditions under which the other one was traced.  device: where inputs are brought."""

    def __init__(self, module: GraphModule, guards: nn.Module | None, specs: Sequence[TensorSpec], device: torch.device) -> None:
        self._module, self._guards, self._specs, self._device = module, guards, specs, device

    def bound(self, inputs: Sequence[Any] | Mapping[str, Any]) -> list[Tensor]:
        """Checked, in the model's order, on its device. Raises InputError as `bind` does, and for what the trace does not cover."""
        tensors = bind(self._specs, inputs)
        self._check_guards(tensors)
        return [tensor.to(self._device) for tensor in tensors]

    def flat(self, tensors: Sequence[Tensor]) -> list[Any]:
        """The arguments of the graph: constants that the example inputs held beside the tensors."""
        remaining = iter(tensors)
        values = [node.meta.get("val") for node in self._module.graph.find_nodes(op="placeholder")]
        return [next(remaining) if isinstance(value, Tensor) else value for value in values]

    def structured(self, tensors: Sequence[Tensor]) -> trace.Inputs:
        """Arguments and keyword arguments as the original module took them."""
        return pytree.tree_unflatten(self.flat(tensors), self._module._in_spec)

    def _check_guards(self, tensors: Sequence[Tensor]) -> None:
        if self._guards is None:
            return
        try:
            self._guards(*self.flat(tensors))
        except AssertionError as error:
            condition = trace.one_line(error).removeprefix("Guard failed: ")
            raise InputError(f"the model was traced under the condition {condition}; trace it again with such inputs") from None


@contextmanager
def evaluated(where: str) -> Iterator[None]:
    """What torch fails on in the block becomes an InputError."""
    try:
        yield
    except (RuntimeError, IndexError, ValueError) as error:
        raise InputError(f"{where}: torch fails on these inputs: {trace.one_line(error)}") from error
