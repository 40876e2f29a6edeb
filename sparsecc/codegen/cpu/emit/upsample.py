"""Larger images as calls of kernels: transposed convolutions, and resizing by whole numbers to the nearest pixel."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from sparsecc.codegen.cpu.emit.conv import Matmul, compact, convolved
from sparsecc.codegen.cpu.forms import Forms
from sparsecc.codegen.cpu.layout import Phases, Value
from sparsecc.codegen.cpu.operators import interleave, upsample
from sparsecc.codegen.cpu.operators.interleave import InterleaveSpec
from sparsecc.codegen.cpu.operators.upsample import UpsampleSpec
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.recognize.program import Expr, Layer, Node, Var, dtype, image_shape, shape
from sparsecc.codegen.spec import Epilogue, MatmulSpec
from sparsecc.codegen.tvm_api import relax

_APART = 4  # phases that may each have a kernel call


def emit_transposed(forms: Forms, target: Target, matmul: Matmul, node: Node, layer: Layer, epilogue: Epilogue) -> Value:
    """A matrix product whose rows are phases of the result; they stay apart for a transposed convolution that follows."""
    assert layer.geometry is not None
    found = forms.value(layer.x).phases or _one_phase(forms, target, layer.x)
    batch, channels, pitch = shape(found.held)
    spec = MatmulSpec(layer.rows, channels, batch, pitch, pitch, pitch, epilogue=epilogue)
    y = matmul(spec, layer, found.held, None)
    count = math.prod(layer.geometry.kernel)
    held = forms.op(relax.op.reshape(y, [batch * count, layer.rows // count, pitch]))
    phases = Phases(held, found.height, found.width, (*found.factors, layer.geometry.kernel))
    return Value(shape(node.var), phases=phases, later=partial(_interleaved, forms, target, phases))


def emit_overlapping(forms: Forms, target: Target, matmul: Matmul, node: Node, layer: Layer, epilogue: Epilogue) -> Value:
    """Convolutions that compute the phases of the result; then each position is spread out.

    Few phases are convolutions by themselves where they have different numbers of taps: all in one, a kernel of 3 and a stride of 2 would
    multiply 16 taps instead of 9.
    """
    g = layer.geometry
    assert g is not None
    batch, channels, *out = image_shape(node.var)
    height, width = ((size + crop - 1) // phases + 1 for size, crop, phases in zip(out, g.crop, g.phases, strict=True))
    phases = math.prod(g.phases)
    parts = _apart(layer, channels) if phases <= _APART else [(layer, None)]
    planes = [convolved(forms, target, matmul, part, (height, width), epilogue, taps) for part, taps in parts]
    cols, pitch = planes[0].cols, shape(planes[0].held)[2]
    spec = InterleaveSpec(batch, channels, height, width, pitch, (g.phases,), cols, g.crop, (out[0], out[1]))
    held = planes[0].held if len(planes) == 1 else forms.op(relax.op.concat([plane.held for plane in planes], axis=1))
    held = forms.op(relax.op.reshape(held, [batch * phases, channels, pitch]))
    y = forms.call(forms.kernel(spec, lambda: interleave.build(spec, target)), [held], spec.y_shape)
    return Value(shape(node.var), natural=forms.op(relax.op.reshape(y, list(shape(node.var)))))


def _apart(layer: Layer, outputs: int) -> list[tuple[Layer, list[int] | None]]:
    """Each phase of the result with the taps that it has; the whole where each has all."""
    assert layer.geometry is not None
    blocks = layer.matrix.reshape(math.prod(layer.geometry.phases), outputs, math.prod(layer.geometry.kernel), -1)
    has = np.asarray(blocks.any(axis=(1, 3)))  # phase, tap
    if has.all():
        return [(layer, None)]
    parts: list[tuple[Layer, list[int] | None]] = []
    for phase, block in enumerate(blocks):
        taps = [int(tap) for tap in np.flatnonzero(has[phase])] or [0]
        bias = None if layer.bias is None else layer.bias[phase * outputs : (phase + 1) * outputs]
        weight = np.ascontiguousarray(block[:, taps].reshape(outputs, -1))
        parts.append((replace(layer, weight=weight, bias=bias), taps))
    return parts


def _one_phase(forms: Forms, target: Target, x: Var) -> Phases:
    _, _, height, width = image_shape(x)
    return Phases(compact(forms, target, x), height, width, ())


def _interleaved(forms: Forms, target: Target, phases: Phases) -> Expr:
    count, channels, pitch = shape(phases.held)
    batch = count // math.prod(rows * cols for rows, cols in phases.factors)
    spec = InterleaveSpec(batch, channels, phases.height, phases.width, pitch, phases.factors)
    return forms.call(forms.kernel(spec, lambda: interleave.build(spec, target)), [phases.held], spec.y_shape)


def emit_resize(forms: Forms, target: Target, node: Node) -> Value | None:
    """Nearest pixels, where each is repeated a whole number of times."""
    if node.op != "image.resize2d" or dtype(node.var) != "float32":
        return None
    attrs = node.attrs
    if attrs.layout != "NCHW" or attrs.method != "nearest_neighbor":
        return None
    (batch, channels, height, width), out = shape(node.args[0]), shape(node.var)
    repeats = (attrs.coordinate_transformation_mode, attrs.rounding_method) in _REPEATS
    if not repeats or out[2] % height or out[3] % width:
        return None
    spec = UpsampleSpec(batch * channels, height, width, (out[2] // height, out[3] // width))
    x = forms.op(relax.op.reshape(forms.natural(node.args[0]), [batch * channels * height * width]))
    y = forms.call(forms.kernel(spec, lambda: upsample.build(spec, target)), [x], (math.prod(out),))
    return Value(out, natural=forms.op(relax.op.reshape(y, list(out))))


_REPEATS = {("asymmetric", "floor"), ("half_pixel", "round"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
