"""The ONNX host: a file or ModelProto, read and rewritten by onnx_ir, run by onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsecc.graph.onnx.graph import OnnxGraph as OnnxGraph


def __getattr__(name: str) -> Any:
    if name != "OnnxGraph":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sparsecc.graph.onnx.graph import OnnxGraph

    return OnnxGraph
