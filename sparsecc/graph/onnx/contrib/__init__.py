"""Operators of com.microsoft (and a few that onnxruntime has beside the standard) taken apart into standard ones.

onnxruntime's optimizer and its model builders write them, and only onnxruntime knows them: no shape inference, no folding and no
compiler sees through one. Each has a small function here that says it again in ONNX; `RULES` lists them all.
"""

from sparsecc.graph.onnx.contrib.rules import LAYERS, RULES, take_apart

__all__ = ["LAYERS", "RULES", "take_apart"]
