"""Emits recurrent layers as calls of their kernel."""

from __future__ import annotations

import numpy as np

from sparsecc.codegen.cpu.forms import Forms
from sparsecc.codegen.cpu.layout import Value
from sparsecc.codegen.cpu.operators import quantized_lstm, recurrent
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.recognize.program import Node, shape


def emit_recurrent(forms: Forms, target: Target, node: Node) -> Value | None:
    """None for any other node."""
    found = forms.program.placeholders.get(node.op)
    if found is None or found.kind != "recurrent":
        return None
    spec = found.attributes["spec"]
    made = recurrent if spec.dtype == "float32" else quantized_lstm
    kernel = forms.kernel((spec, target.lanes), lambda: made.build(spec, target))
    x, h, c = (forms.natural(arg) for arg in node.args)
    weight = forms.weight(recurrent.prepare(spec, found.attributes["weight"]))
    extra = forms.weight(np.ascontiguousarray(found.attributes["extra"]))
    return Value(shape(node.var), natural=forms.call(kernel, [x, weight, h, c, extra], spec.out))
