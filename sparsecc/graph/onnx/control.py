"""Control flow that compiled code cannot have, put into other words."""

from __future__ import annotations

import onnx

from sparsecc.graph.onnx import branches, kept, loops
from sparsecc.graph.onnx.nodes import copied, first_result
from sparsecc.graph.onnx.slim import slimmed


def without(proto: onnx.ModelProto, where: str, growth: int, unequal: list[str] | None = None) -> onnx.ModelProto:
    """Loops written out, branches selected; what is inside, or behind, is seen once they are gone.

    unequal: the first results of each If whose branches were found to give other sizes; it grows. What is not known to be equal where
    another If was selected is not known where it stays, so that none is tried after it failed.
    """
    unequal = [] if unequal is None else unequal
    while loops.unroll(proto):
        proto = slimmed(proto, where, growth)
    while True:
        trial = copied(proto)
        results = branches.select(trial, unequal)
        if not results:
            break
        trial = without(slimmed(trial, where, growth), where, growth, unequal)
        if not branches.unequal(trial, results):
            return trial
        unequal.append(results[0])
    for node in trial.graph.node:
        if node.op_type == "If" and first_result(node) in unequal:
            kept.note(node, "its branches may give other sizes")
    return trial
