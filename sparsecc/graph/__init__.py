"""Models as passes see them: what hosts share, and a room for each host."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "onnx_io":  # where `onnx.io` was until the hosts got rooms of their own; programs outside import it still
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sparsecc.graph.onnx import io

    return io
