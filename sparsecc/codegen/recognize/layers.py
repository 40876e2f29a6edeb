"""Finds layers in a program: what Relax has in pieces becomes one node for which there is a kernel.

matmul(x, W) + b, relu  ->  one Layer;   x·½(1 + erf(x/√2))  ->  gelu;   softmax(scale·q kᵀ + mask) v  ->  one AttentionCall
"""

from __future__ import annotations

import numpy as np

from sparsecc.codegen.numbers import SIZE
from sparsecc.codegen.recognize import activation, attention
from sparsecc.codegen.recognize.conv import along_lines, convolution, depthwise, outputs_and_taps, overlapping, scale_and_shift, transposed
from sparsecc.codegen.recognize.program import Expr, Geometry, Layer, Node, Program, dtype, reads, shape
from sparsecc.codegen.recognize.strides import move_strides_up
from sparsecc.codegen.spec import ACTIVATIONS
from sparsecc.codegen.tvm_api import relax
from sparsecc.errors import ModelError
from sparsecc.forms import Form
from sparsecc.precisions.base import Quantized

_UNARY = {"nn.relu": "relu", "nn.gelu": "gelu", "nn.gelu_tanh": "gelu_tanh", "nn.silu": "silu", "sigmoid": "sigmoid", "tanh": "tanh"}


def recognize(program: Program) -> None:
    """Rewrite the program's nodes in place."""
    for rule in (
        _alias,
        activation.gelu,
        activation.silu,
        activation.clip6,
        activation.hardswish,
        activation.hardsigmoid,
        attention.attention_call,
        attention.block_attention_call,
        attention.softmax_attention,
    ):
        for node in list(program.nodes):
            if program.producer.get(node.var) is node:
                rule(program, node)
        program.refresh()
    for node in program.nodes:
        for layer_rule in (_linear, _stored_linear, convolution, _stored_conv2d, depthwise, transposed, overlapping):
            layer = layer_rule(program, node)
            if layer is not None:
                node.op, node.what = "layer", layer
                break
    program.refresh()
    for node in list(program.nodes):
        if isinstance(node.what, Layer) and node in program.nodes:
            _absorb(program, node, node.what)
    program.refresh()
    for node in list(program.nodes):
        if program.producer.get(node.var) is node and along_lines(program, node):
            program.refresh()
            assert isinstance(node.what, Layer)
            _absorb(program, node, node.what)
    program.refresh()
    move_strides_up(program)


def _alias(program: Program, node: Node) -> None:
    if node.op == "alias" and isinstance(node.args[0], relax.Var):
        _substitute(program, node.var, node.args[0])


def _substitute(program: Program, old: Expr, new: Expr) -> None:
    for user in program.nodes:
        user.args = [new if isinstance(arg, relax.Var) and arg == old else arg for arg in user.args]
    program.outputs = [new if isinstance(out, relax.Var) and out == old else out for out in program.outputs]


def _linear(program: Program, node: Node) -> Layer | None:
    if node.op != "matmul" or dtype(node.var) != "float32":
        return None
    weight = program.constant(node.args[1])
    if weight is None or weight.ndim != 2 or weight.size == 0 or not isinstance(node.args[0], relax.Var) or len(shape(node.args[0])) < 2:
        return None
    return Layer(node.args[0], weight.T)


def _stored_linear(program: Program, node: Node) -> Layer | None:
    found = program.placeholders.get(node.op)
    if found is None or found.kind != "linear" or found.stored is None:
        return None
    _require_kernels(found.name, found.stored)
    return Layer(node.args[0], found.stored, found.bias, site=found.name)


def _require_kernels(site: str, weight: Form) -> None:
    """Weights alone in other numbers are multiplied in float32; where inputs are rounded to them, too, that would be something else."""
    if isinstance(weight, Quantized) and weight.scheme.precision.rounds_inputs and weight.stored_dtype not in SIZE:
        known = " and ".join(sorted(SIZE.keys() - {"float32"}))
        raise ModelError(f"layer '{site}': its inputs are rounded to {weight.stored_dtype}, kernels know {known}; convert to ONNX instead")


def _stored_conv2d(program: Program, node: Node) -> Layer | None:
    found = program.placeholders.get(node.op)
    if found is None or found.kind != "conv2d" or found.stored is None:
        return None
    a = found.attributes
    geometry = Geometry(a["kernel"], a["stride"], a["padding"], a["dilation"])
    return Layer(node.args[0], found.stored, found.bias, geometry, found.name)


def _absorb(program: Program, node: Node, layer: Layer) -> None:
    """Fold what alone follows a layer into it: bias, activation, and a residual where the result has the residual's layout."""
    same_pitch = layer.geometry is None or layer.geometry.keeps_pitch
    while (user := program.only_user(node.var)) is not None:
        other = next((arg for arg in user.args if not (isinstance(arg, relax.Var) and arg == node.var)), None)
        adds = user.op == "add" and layer.residual is None and shape(user.var) == shape(node.var)  # and broadcasts nothing of the layer's
        if adds and layer.activation is None and other is not None and _add_bias(program, layer, other):
            pass
        elif (name := _UNARY.get(user.op, user.op)) in ACTIVATIONS and user.what is None and layer.activation is None:
            layer.activation, layer.residual_first = name, layer.residual is not None
        elif other is not None and scale_and_shift(program, layer, user, other):
            pass
        elif adds and same_pitch and isinstance(other, relax.Var) and shape(other) == shape(user.var):
            layer.residual = other
        else:
            return
        before = list(reads(user))
        user.op, user.what, user.args = "layer", layer, []
        program.absorb(node, user, before)  # the layer now stands where its last part stood: a residual may be made in between
        node = user


def _add_bias(program: Program, layer: Layer, other: Expr) -> bool:
    value = program.constant(other)
    rows, taps = outputs_and_taps(layer)
    if value is None or value.size not in (1, rows) or dtype(other) != "float32":
        return False
    axis = 1 if layer.geometry is None else len(shape(layer.x)) - 1  # of the outputs, from the end
    if value.size == rows and rows > 1 and (value.shape[-axis] if value.ndim >= axis else 0) != rows:
        return False
    bias = np.tile(np.broadcast_to(value.reshape(-1), rows), taps)
    layer.bias = bias.copy() if layer.bias is None else layer.bias + bias
    return True
