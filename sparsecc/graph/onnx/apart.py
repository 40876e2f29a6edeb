"""Simplification in a process of its own, for a model whose constants might end the one that folds them.

onnxruntime, which onnxslim folds with, divides integers as the CPU does: the least one by -1 is a signal on x86, and no exception.
"""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from sparsecc.errors import ModelError
from sparsecc.graph.onnx.nodes import constants, title

SECONDS = 600
_CHILD = "import sys; sys.path[:] = {path!r}; from sparsecc.graph.onnx.slim import child; child({largest!r})"
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def risks(proto: onnx.ModelProto) -> list[str]:
    """Divisions of integers that folding does, by what is no constant, or one of 0 and -1; with their places."""
    stated = constants(proto.graph)
    known, found = {*(tensor.name for tensor in proto.graph.initializer), ""}, []
    for node in proto.graph.node:
        if node.op_type in ("Shape", "Size") or known.issuperset(node.input):
            known.update(node.output)
            if node.op_type in ("Div", "Mod") and node.domain in ("", "ai.onnx") and _divides_badly(stated.get(node.input[1])):
                found.append(node)
    integers = _integers(proto) if found else set()
    return [f"{node.op_type} '{title(node)}'" for node in found if not integers.isdisjoint((*node.input, *node.output))]


def _divides_badly(divisor: TensorProto | None) -> bool:
    if divisor is None:
        return True
    return divisor.data_type not in _FLOATS and bool(np.isin(numpy_helper.to_array(divisor), (0, -1)).any())


def _integers(proto: onnx.ModelProto) -> set[str]:
    """Values that are no floats."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    found = {v.name for v in (*graph.input, *graph.value_info, *graph.output) if v.type.tensor_type.elem_type not in _FLOATS}
    return found | {tensor.name for tensor in graph.initializer if tensor.data_type not in _FLOATS}


def slim(proto: onnx.ModelProto, where: str, suspects: list[str], largest: int | None) -> onnx.ModelProto:
    """As `slim.slim` does it. Raises ModelError, naming the suspects, when that ends by a signal, else RuntimeError."""
    code = _CHILD.format(path=sys.path, largest=largest)
    done = subprocess.run([sys.executable, "-c", code], input=proto.SerializeToString(), capture_output=True, check=False, timeout=SECONDS)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        places = ", ".join(suspects)
        raise ModelError(f"{where}: folding its constants ends by {name}, as onnxruntime would; look at what {places} divides by")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"exit {done.returncode}")
    return onnx.ModelProto.FromString(done.stdout)
