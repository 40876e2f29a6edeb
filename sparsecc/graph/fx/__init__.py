"""The torch host: a module as torch.export traces it, read and rewritten in ATen operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsecc.graph.fx.graph import FxGraph as FxGraph


def __getattr__(name: str) -> Any:
    if name != "FxGraph":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sparsecc.graph.fx.graph import FxGraph

    return FxGraph
