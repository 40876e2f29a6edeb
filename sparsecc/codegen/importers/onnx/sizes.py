"""Operators whose result has a size that data decide: code is for fixed sizes, and TVM's importer fails on them in its own words."""

from __future__ import annotations

import onnx

from sparsecc.graph.onnx import kept

ALWAYS = {  # the size of whose result is known at run time only, whatever stands in the file
    "Compress": "how many values it keeps",
    "NonMaxSuppression": "how many boxes it keeps",
    "NonZero": "how many values are not zero",
    "Unique": "how many values differ",
}
# Inputs that say what the result looks like, by place, and how they are called. Axes and counts are known when the file states them,
# or when they come from the sizes of values.
_STATED: dict[str, dict[int, str]] = {
    "AffineGrid": {1: "size"},
    "BlackmanWindow": {0: "size"},
    "CenterCropPad": {1: "shape"},
    "ConstantOfShape": {0: "shape"},
    "CumSum": {1: "axis"},
    "DFT": {1: "dft_length", 2: "axis"},
    "Expand": {1: "shape"},
    "HammingWindow": {0: "size"},
    "HannWindow": {0: "size"},
    "If": {0: "condition"},
    "MaxUnpool": {2: "output_shape"},
    "OneHot": {1: "depth"},
    "Pad": {1: "pads", 3: "axes"},
    "Range": {0: "start", 1: "limit", 2: "delta"},
    "Reshape": {1: "shape"},
    "Resize": {2: "scales", 3: "sizes"},
    "STFT": {1: "frame_step", 3: "frame_length"},
    "Slice": {1: "starts", 2: "ends", 3: "axes", 4: "steps"},
    "Split": {1: "split"},
    "Squeeze": {1: "axes"},
    "Tile": {1: "repeats"},
    "TopK": {1: "k"},
    "Unsqueeze": {1: "axes"},
    "Upsample": {1: "scales"},
}
_STATED |= {f"Reduce{kind}": {1: "axes"} for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")}
_OF_SIZES = {"Shape", "Size", "Constant"}  # know their results, whatever flows in


def data_dependent(graph: onnx.GraphProto) -> list[str]:
    """Of each operator whose result has a size that data decide: what it is, where, and what decides."""
    known = {tensor.name for tensor in graph.initializer} | {""}
    found = []
    for node in graph.node:
        if node.op_type in _OF_SIZES or (known.issuperset(node.input) and not _may_differ(node)):
            known.update(node.output)
        reason = _reason(node, known)
        if reason:
            why = f", and {kept.reason(node)}" if kept.reason(node) else ""
            found.append(f"{node.op_type} (at '{node.name or node.output[0]}'): {reason}{why}")
    return found


def _may_differ(node: onnx.NodeProto) -> bool:
    """From run to run, though its inputs do not: what draws numbers, or has a body that reads other values."""
    return node.op_type.startswith("Random") or node.op_type in ALWAYS or any(attribute.HasField("g") for attribute in node.attribute)


def _reason(node: onnx.NodeProto, known: set[str]) -> str | None:
    if node.op_type in ALWAYS:
        return f"data decide {ALWAYS[node.op_type]}"
    stated = _STATED.get(node.op_type, {})
    computed = [name for place, name in stated.items() if place < len(node.input) and node.input[place] not in known]
    return f"data decide its {', '.join(computed)}" if computed else None
