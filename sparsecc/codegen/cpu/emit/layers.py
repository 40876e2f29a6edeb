"""Linear layers and convolutions as calls of the kernel that the chooser picks."""

from __future__ import annotations

import numpy as np

from sparsecc import memory
from sparsecc.codegen.choose import Chooser
from sparsecc.codegen.cpu.emit.conv import emit_conv2d
from sparsecc.codegen.cpu.emit.upsample import emit_overlapping, emit_transposed
from sparsecc.codegen.cpu.emit.windows import emit_depthwise
from sparsecc.codegen.cpu.forms import Forms
from sparsecc.codegen.cpu.layout import VIEWS, Value, as_they_are, layout_for
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.recognize.program import Expr, Layer, Node, Program, Var, shape
from sparsecc.codegen.spec import Epilogue, MatmulSpec
from sparsecc.structures.base import Structured

_LARGE = 1 << 20  # weights of a layer whose preparation leaves holes in the heap that are worth closing


def emit_layer(forms: Forms, chooser: Chooser[Target], node: Node, layer: Layer) -> Value:
    if layer.geometry is None:
        return _linear(forms, chooser, node, layer)

    def matmul(spec: MatmulSpec, layer: Layer, x: Expr, residual: Expr | None) -> Var:
        return _matmul(forms, chooser, spec, layer, (x,), residual)

    if layer.geometry.depthwise:
        return emit_depthwise(forms, chooser.target, node, layer, _epilogue(layer))
    if layer.geometry.transposed:
        return emit_transposed(forms, chooser.target, matmul, node, layer, _epilogue(layer))
    if layer.geometry.phases != (1, 1):
        return emit_overlapping(forms, chooser.target, matmul, node, layer, _epilogue(layer))
    return emit_conv2d(forms, chooser.target, matmul, node, layer, _epilogue(layer))


def _linear(forms: Forms, chooser: Chooser[Target], node: Node, layer: Layer) -> Value:
    value = forms.value(layer.x)
    layout = as_they_are(value.shape) if _alone(forms, chooser.target, node, layer) else layout_for(value, chooser.target.lanes)
    spec = MatmulSpec.linear(layer.rows, layer.depth, layout.tiles, layout.tile, _epilogue(layer), layer.dtype)
    residual = None if layer.residual is None else forms.tiled(layer.residual, layout)
    if layer.dtype == "float32":
        x: tuple[Expr, ...] = (forms.tiled(layer.x, layout),)
    else:
        x = forms.narrowed(layer.x, layout, layer.dtype, layer.input_scale, chooser.target)
    return Value(shape(node.var), tiled=_matmul(forms, chooser, spec, layer, x, residual), layout=layout)


def _alone(forms: Forms, target: Target, node: Node, layer: Layer) -> bool:
    """Whether tokens stay as they are because no neighbour has them in tiles: turning them there and back would take as long as a small
    product does. Larger weights would be read from the L3 for every few tokens."""
    if not isinstance(layer.weight, np.ndarray) or layer.residual is not None or 4 * layer.weight.size > target.l2_bytes // 2:
        return False
    return forms.value(layer.x).tiled is None and len(forms.program.users[layer.x]) == 1 and _goes_out(forms.program, node.var)


def _goes_out(program: Program, var: Var) -> bool:
    """Whether a value is an output of the model and nothing else, maybe seen in another shape."""
    users = program.users.get(var, [])
    return all(user.what is None and user.op in VIEWS and _goes_out(program, user.var) for user in users)


def _epilogue(layer: Layer) -> Epilogue:
    return Epilogue(layer.activation, layer.residual is not None, layer.residual_first, layer.scale, layer.shift)


def _matmul(forms: Forms, chooser: Chooser[Target], spec: MatmulSpec, layer: Layer, x: tuple[Expr, ...], residual: Expr | None) -> Var:
    """Calls of the chosen kernels. The last one's output has spec.y_shape.  x: narrow numbers come with scales and zero points."""
    plan = chooser.choose_structured(spec, layer) if isinstance(layer.weight, Structured) else chooser.choose(spec, layer)
    y = plan.emit(forms, spec, x, residual)
    if layer.rows * layer.depth > _LARGE:
        memory.trim()
    return y
