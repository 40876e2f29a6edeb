"""Control flow that compiled code cannot have, put into other words."""

from __future__ import annotations

import onnx

from sparsecc.graph import onnx_branches, onnx_kept, onnx_loops
from sparsecc.graph.onnx_slim import slimmed


def without(proto: onnx.ModelProto, where: str, growth: int) -> onnx.ModelProto:
    """Loops written out, branches selected; what is inside, or behind, is seen once they are gone."""
    while onnx_loops.unroll(proto):
        proto = slimmed(proto, where, growth)
    stay: list[str] = []
    while True:
        trial = onnx.ModelProto.FromString(proto.SerializeToString())
        results = onnx_branches.select(trial, stay)
        if not results:
            return trial
        trial = without(slimmed(trial, where, growth), where, growth)
        if not onnx_branches.unequal(trial, results):
            return trial
        stay.append(results[0])
        node = next(node for node in proto.graph.node if results[0] in node.output)
        onnx_kept.note(node, "its branches may give other sizes")
