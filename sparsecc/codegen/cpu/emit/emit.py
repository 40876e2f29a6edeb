"""Emits a recognized program as Relax again: layers as calls of generated kernels, everything else as it was.

Layouts are decided on the way: a layer reads and writes tiles of tokens, elementwise operators keep the form of what they
read, and a value is turned only where an operator without a tiled form asks for it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from sparsecc.codegen.backend import Emitted
from sparsecc.codegen.choose import Chooser
from sparsecc.codegen.cpu.emit.attention import emit_attention, emit_block_attention
from sparsecc.codegen.cpu.emit.conv import emit_subsampled
from sparsecc.codegen.cpu.emit.grouped import emit_grouped
from sparsecc.codegen.cpu.emit.layers import emit_layer
from sparsecc.codegen.cpu.emit.recurrent import emit_recurrent
from sparsecc.codegen.cpu.emit.upsample import emit_resize
from sparsecc.codegen.cpu.emit.windows import emit_max_pool
from sparsecc.codegen.cpu.forms import Forms
from sparsecc.codegen.cpu.layout import VIEWS, Value, layout_for
from sparsecc.codegen.cpu.operators import layer_norm
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.plain.operators import ACTIVATIONS, as_it_was, spelled_out
from sparsecc.codegen.recognize.program import AttentionCall, BlockAttentionCall, Expr, Layer, Node, Program, Subsampled, dtype, shape
from sparsecc.codegen.tvm_api import relax

_UNARY = {"nn.relu", "tanh", "sigmoid", "nn.silu", "nn.gelu", "nn.gelu_tanh", "exp", "sqrt", "negative", "abs", "erf"}
_BINARY = {"add", "subtract", "multiply", "divide", "maximum", "minimum"}


def emit(program: Program, target: Target, chooser: Chooser[Target]) -> Emitted:
    forms = Forms(program)
    inputs = [relax.Var(p.name, p.ty) for p in program.params]
    for old, new in zip(program.params, inputs, strict=True):
        forms.values[old] = Value(shape(old), natural=new)
    functions: dict[Any, Any] = {}
    with forms.builder.function("main"):
        with forms.builder.dataflow():
            for node in program.nodes:
                forms.values[node.var] = _emit_node(forms, target, chooser, node, functions)
            result = forms.builder.emit_output(relax.Tuple([forms.natural(out) for out in program.outputs]))
        forms.builder.emit_func_output(result, params=[*inputs, *forms.weight_vars])
    return Emitted(forms.builder.get(), forms.weights, tuple(forms.calls))


def _emit_node(forms: Forms, target: Target, chooser: Chooser[Target], node: Node, functions: dict[Any, Any]) -> Value:
    if isinstance(node.var.ty, relax.TensorType) and 0 in shape(node.var):  # a batch, or a past, of nothing
        return Value(shape(node.var), natural=forms.op(relax.op.zeros(shape(node.var), dtype(node.var))))
    if isinstance(node.what, Layer):
        with forms.within(node.what.name or node.what.site):
            return emit_layer(forms, chooser, node, node.what)
    if isinstance(node.what, AttentionCall):
        return emit_attention(forms, target, node, node.what)
    if isinstance(node.what, BlockAttentionCall):
        with forms.within(node.what.site):
            return emit_block_attention(forms, chooser, node, node.what)
    if isinstance(node.what, Subsampled):
        return emit_subsampled(forms, target, node, node.what)
    view = _view(forms, node) or emit_max_pool(forms, target, node) or emit_resize(forms, target, node)
    own = view or emit_recurrent(forms, target, node) or emit_grouped(forms, target, node) or _layer_norm(forms, target, node)
    if own is not None:
        return own
    spelled = spelled_out(forms, node)
    if spelled is not None:
        return Value(shape(node.var), natural=spelled)
    extents = shape(node.var) if isinstance(node.var.ty, relax.TensorType) else ()
    return _elementwise(forms, node) or Value(extents, natural=as_it_was(forms, node, functions))


def _view(forms: Forms, node: Node) -> Value | None:
    """Reshapes and transposes between [batch, tokens, heads·dim] and heads, for which tiles need not move."""
    value = forms.values.get(node.args[0]) if node.args and isinstance(node.args[0], relax.Var) else None
    if value is None or value.tiled is None or value.layout is None or node.op not in VIEWS:
        return None
    new, tokens = shape(node.var), (value.layout.sequences, value.layout.tokens)
    view = Value(new, tiled=value.tiled, layout=value.layout)
    if node.op != "permute_dims":
        if value.heads is None and new[-1:] == value.shape[-1:]:
            return view
        if value.heads is None and len(new) == 4 and new[:2] == tokens and new[2] * new[3] == value.shape[-1]:
            return replace(view, heads="bshd")
        if value.heads == "bshd" and math.prod(new[:-1]) == math.prod(tokens) and new[-1] == value.shape[2] * value.shape[3]:
            return view
    else:
        heads = _HEAD_TURNS.get((value.heads, tuple(int(a) for a in node.attrs.axes or ())))
        return replace(view, heads=heads) if heads else None
    return None


_HEAD_TURNS: dict[tuple[str | None, tuple[int, ...]], str] = {
    ("bshd", (0, 2, 1, 3)): "bhsd",
    ("bhsd", (0, 2, 1, 3)): "bshd",
    ("bshd", (0, 2, 3, 1)): "bhds",
}


def _layer_norm(forms: Forms, target: Target, node: Node) -> Value | None:
    last = len(shape(node.var)) - 1 if node.op == "nn.layer_norm" else 0
    if node.op != "nn.layer_norm" or last < 1 or [int(a) % (last + 1) for a in node.attrs.axes] != [last]:
        return None
    x, gamma, beta = node.args
    value = forms.value(x)
    layout = layout_for(value, target.lanes)
    if layout.as_they_are or math.prod(value.shape[:-1]) < target.lanes:
        return None
    spec = layer_norm.LayerNormSpec(layout.tiles, value.shape[-1], layout.tile, float(node.attrs.epsilon))
    kernel = forms.kernel(spec, lambda: layer_norm.build(spec, target))
    out = forms.call(kernel, [forms.tiled(x, layout), forms.natural(gamma), forms.natural(beta)], layout.shape(value.shape[-1]))
    return Value(value.shape, tiled=out, layout=layout)


def _elementwise(forms: Forms, node: Node) -> Value | None:
    """On tiles when everything of full shape is in tiles already; scalars and [features] vectors fit themselves to that."""
    make = ACTIVATIONS.get(node.op)
    if make is None and node.op not in _UNARY | _BINARY:
        return None
    new = shape(node.var)
    full = [forms.values[arg] for arg in node.args if isinstance(arg, relax.Var) and forms.program.constant(arg) is None]
    layouts = [value.layout for value in full if value.tiled is not None and value.heads is None and value.shape == new]
    args = [_tiled_operand(forms, arg, new) for arg in node.args] if full and len(layouts) == len(full) and len({*layouts}) == 1 else [None]
    if all(arg is not None for arg in args):
        return Value(
            new, tiled=make(forms, args[0]) if make else forms.op(relax.Call(node.expr.op, args, node.expr.attrs)), layout=layouts[0]
        )
    return Value(new, natural=make(forms, forms.natural(node.args[0]))) if make else None


def _tiled_operand(forms: Forms, arg: Expr, full: tuple[int, ...]) -> Expr | None:
    constant = forms.program.constant(arg)
    if constant is None:
        return forms.values[arg].tiled
    if constant.size == 1:
        return relax.const(np.ascontiguousarray(constant).reshape(()))
    if constant.size == full[-1] and constant.shape[-1] == full[-1]:
        return forms.weight(np.ascontiguousarray(constant).reshape(1, -1, 1))
    return None
