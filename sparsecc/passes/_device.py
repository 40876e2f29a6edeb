"""Where a pass computes."""

from __future__ import annotations

import torch

from sparsecc.errors import RecipeError
from sparsecc.graph.base import Differentiable, Graph


def require_device(device: str | None) -> None:
    """Raises RecipeError for a name that torch does not know."""
    try:
        torch.device(device or "cpu")
    except RuntimeError:
        raise RecipeError(f"device: {device!r} is no device of torch; name one as cpu, cuda or cuda:1") from None


def on_device(graph: Graph, device: str | None) -> Graph:
    """A copy of the graph there; None: the graph, which computes where its weights lie.

    Raises RecipeError for a host that runs on the CPU alone, and for a device that this machine lacks.
    """
    if device is None:
        return graph
    if not isinstance(graph, Differentiable):
        raise RecipeError(f"device: {graph.host} computes on the CPU alone; leave it out, or give the torch model")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"device: {device!r} cannot be used: {str(error).splitlines()[0]}") from None
    return graph.to(device)
