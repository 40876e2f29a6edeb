"""Finds layers in a program: what Relax has in pieces becomes one node for which there is a kernel.

matmul(x, W) + b, relu  ->  one Layer;   x·½(1 + erf(x/√2))  ->  gelu;   softmax(scale·q kᵀ + mask) v  ->  one AttentionCall
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sparsecc.codegen.kernels.math import ACTIVATIONS
from sparsecc.codegen.lower.program import AttentionCall, Expr, Geometry, Layer, Node, Program, dtype, shape
from sparsecc.codegen.tvm_api import relax

_UNARY = {"nn.relu": "relu", "nn.gelu": "gelu", "nn.gelu_tanh": "gelu_tanh", "nn.silu": "silu", "sigmoid": "sigmoid", "tanh": "tanh"}


def recognize(program: Program) -> None:
    """Rewrite the program's nodes in place."""
    for rule in (_alias, _gelu, _gate, _clip6, _hardswish, _attention_call, _softmax_attention):
        for node in list(program.nodes):
            if program.producer.get(node.var) is node:
                rule(program, node)
        program.refresh()
    for node in program.nodes:
        for layer_rule in (_linear, _sparse_linear, _conv2d, _sparse_conv2d):
            layer = layer_rule(program, node)
            if layer is not None:
                node.op, node.what = "layer", layer
                break
    program.refresh()
    for node in list(program.nodes):
        if isinstance(node.what, Layer) and node in program.nodes:
            _absorb(program, node, node.what)
    program.refresh()


def _become(program: Program, node: Node, op: str, args: list[Expr]) -> None:
    node.op, node.args = op, args
    program.producer[node.var] = node


def _alias(program: Program, node: Node) -> None:
    if node.op == "alias" and isinstance(node.args[0], relax.Var):
        _substitute(program, node.var, node.args[0])


def _substitute(program: Program, old: Expr, new: Expr) -> None:
    for user in program.nodes:
        user.args = [new if isinstance(arg, relax.Var) and arg == old else arg for arg in user.args]
    program.outputs = [new if isinstance(out, relax.Var) and out == old else out for out in program.outputs]


def _factors(program: Program, expr: Expr) -> list[Expr]:
    """A product as its factors; x / c counts as x · (1/c) through `_value`."""
    node = program.node(expr)
    if node is not None and node.op == "multiply":
        return [factor for arg in node.args for factor in _factors(program, arg)]
    return [expr]


def _gelu(program: Program, node: Node) -> None:
    """x · ½ · (1 + erf(x / √2)), the factors in any order."""
    if node.op != "multiply":
        return
    factors = _factors(program, node.var)
    half = [f for f in factors if program.scalar(f) is not None and abs(program.scalar(f) - 0.5) < 1e-6]
    sums = [f for f in factors if (n := program.node(f)) is not None and n.op == "add"]
    others = [f for f in factors if not any(f is h for h in half) and not any(f is s for s in sums)]
    if len(half) == 1 and len(sums) == 1 and len(others) == 1 and _is_one_plus_erf(program, sums[0], others[0]):
        _become(program, node, "gelu", [others[0]])


def _is_one_plus_erf(program: Program, total: Expr, x: Expr) -> bool:
    terms = program.producer[total].args
    erf = next((n for t in terms if (n := program.node(t)) is not None and n.op == "erf"), None)
    if erf is None or not any(program.scalar(t) == 1.0 for t in terms):
        return False
    inner = program.node(erf.args[0])
    if inner is None or inner.op not in ("multiply", "divide"):
        return False
    a, b = inner.args
    scale = program.scalar(b) if program.scalar(b) is not None else program.scalar(a)
    if scale is None or (a != x if program.scalar(b) is not None else b != x):
        return False
    return abs((1 / scale if inner.op == "divide" else scale) - 1 / math.sqrt(2)) < 1e-5


def _gate(program: Program, node: Node) -> None:
    """x · sigmoid(x) is silu, x · hard_sigmoid(x) is hardswish."""
    if node.op != "multiply":
        return
    for x, gate in (node.args, node.args[::-1]):
        inner = program.node(gate)
        if inner is not None and inner.op == "sigmoid" and isinstance(x, relax.Var) and inner.args[0] == x:
            return _become(program, node, "silu", [x])


def _bounds(program: Program, node: Node) -> tuple[Expr, float, float] | None:
    """(x, low, high) of a clip."""
    if node.op != "clip":
        return None
    low, high = (_number(arg) for arg in node.args[1:3])
    return (node.args[0], low, high) if low is not None and high is not None else None


def _number(expr: Expr) -> float | None:
    value = getattr(expr, "value", None)
    value = getattr(value, "value", value)
    return float(value) if isinstance(value, (int, float)) else None


def _clip6(program: Program, node: Node) -> None:
    bounds = _bounds(program, node)
    if bounds is not None and bounds[1:] == (0.0, 6.0) and dtype(node.var) == "float32":
        inner = program.node(bounds[0])
        plus3 = inner is not None and inner.op == "add" and any(program.scalar(a) == 3.0 for a in inner.args)
        if not plus3:  # otherwise it is a part of hardswish
            _become(program, node, "relu6", [bounds[0]])


def _hardswish(program: Program, node: Node) -> None:
    """x · clip(x + 3, 0, 6) / 6."""
    if node.op == "divide" and program.scalar(node.args[1]) == 6.0:
        product = program.node(node.args[0])
    elif node.op == "multiply" and (scale := program.scalar(node.args[1])) is not None and abs(scale - 1 / 6) < 1e-6:
        product = program.node(node.args[0])
    else:
        return
    if product is None or product.op != "multiply":
        return
    for x, gate in (product.args, product.args[::-1]):
        clip = program.node(gate)
        bounds = _bounds(program, clip) if clip is not None else None
        plus = program.node(bounds[0]) if bounds is not None and bounds[1:] == (0.0, 6.0) else None
        if plus is not None and plus.op == "add" and isinstance(x, relax.Var):
            if any(isinstance(a, relax.Var) and a == x for a in plus.args) and any(program.scalar(a) == 3.0 for a in plus.args):
                return _become(program, node, "hardswish", [x])


def _linear(program: Program, node: Node) -> Layer | None:
    if node.op != "matmul" or dtype(node.var) != "float32":
        return None
    weight = program.constant(node.args[1])
    if weight is None or weight.ndim != 2 or not isinstance(node.args[0], relax.Var) or len(shape(node.args[0])) < 2:
        return None
    return Layer(node.args[0], weight.T)


def _conv2d(program: Program, node: Node) -> Layer | None:
    if node.op != "nn.conv2d" or dtype(node.var) != "float32":
        return None
    weight = program.constant(node.args[1])
    attrs = node.attrs
    if weight is None or weight.ndim != 4 or int(attrs.groups) != 1 or attrs.data_layout != "NCHW" or attrs.kernel_layout != "OIHW":
        return None
    out, channels, kh, kw = weight.shape
    matrix = weight.transpose(0, 2, 3, 1).reshape(out, kh * kw * channels)
    padding = [int(p) for p in attrs.padding]
    padding = padding * 4 if len(padding) == 1 else padding * 2 if len(padding) == 2 else padding
    pair = lambda values: (int(values[0]), int(values[-1]))  # noqa: E731
    return Layer(node.args[0], matrix, geometry=Geometry((kh, kw), pair(attrs.strides), tuple(padding), pair(attrs.dilation)))


def _sparse_linear(program: Program, node: Node) -> Layer | None:
    found = program.placeholders.get(node.op)
    if found is None or found.kind != "sparse_linear":
        return None
    return Layer(node.args[0], found.matrix, found.bias, site=found.name, format=found.attributes["format"])


def _sparse_conv2d(program: Program, node: Node) -> Layer | None:
    found = program.placeholders.get(node.op)
    if found is None or found.kind != "sparse_conv2d":
        return None
    a = found.attributes
    geometry = Geometry(a["kernel"], a["stride"], a["padding"], a["dilation"])
    return Layer(node.args[0], found.matrix, found.bias, geometry, found.name, a["format"])


def _absorb(program: Program, node: Node, layer: Layer) -> None:
    """Fold what alone follows a layer into it: bias, activation, and a residual where the result has the residual's layout."""
    same_pitch = layer.geometry is None or (layer.geometry.pointwise and layer.geometry.stride == (1, 1))
    while (user := program.only_user(node.var)) is not None:
        other = next((arg for arg in user.args if not (isinstance(arg, relax.Var) and arg == node.var)), None)
        if user.op == "add" and other is not None and layer.activation is None and layer.residual is None and _add_bias(program, layer, other):
            pass
        elif (name := _UNARY.get(user.op, user.op)) in ACTIVATIONS and user.what is None and layer.activation is None:
            layer.activation, layer.residual_first = name, layer.residual is not None
        elif user.op == "add" and same_pitch and layer.residual is None and isinstance(other, relax.Var) and shape(other) == shape(user.var):
            layer.residual = other
        else:
            return
        program.nodes.remove(node)  # the layer now stands where its last part stood: a residual may be made in between
        user.op, user.what, user.args = "layer", layer, []
        node = user
        program.refresh()


def _add_bias(program: Program, layer: Layer, other: Expr) -> bool:
    value = program.constant(other)
    rows = len(layer.matrix)
    if value is None or value.size not in (1, rows) or dtype(other) != "float32":
        return False
    axis_last = layer.geometry is None
    if value.size == rows and rows > 1 and (value.shape[-1] if axis_last else value.shape[-3] if value.ndim >= 3 else 0) != rows:
        return False
    bias = np.broadcast_to(value.reshape(-1), rows)
    layer.bias = bias.copy() if layer.bias is None else layer.bias + bias
    return True


def _attention_call(program: Program, node: Node) -> None:
    found = program.placeholders.get(node.op)
    if found is not None and found.kind == "attention":
        q, k, v, *mask = node.args
        node.what = AttentionCall(q, k, v, found.attributes["scale"], found.attributes["causal"], mask[0] if mask else None)
        node.op = "attention"


def _softmax_attention(program: Program, node: Node) -> None:
    """matmul(softmax(scale · matmul(q, kᵀ) + mask), v), 4-D, scaling before or after the product."""
    if node.op != "matmul" or len(shape(node.var)) != 4:
        return
    softmax = program.node(node.args[0])
    if softmax is None or softmax.op != "nn.softmax" or int(softmax.attrs.axis) not in (-1, 3) or program.only_user(softmax.var) is not node:
        return
    scale, mask, at = 1.0, None, program.node(softmax.args[0])
    while at is not None and at.op in ("add", "multiply", "divide") and len(program.users[at.var]) == 1:
        number, inner = _scaled(program, at)
        if number is not None and mask is None:
            scale *= number
        elif at.op == "add" and mask is None and scale == 1.0:
            inner, mask = _score_and_mask(program, at)
        else:
            return
        at = program.node(inner)
    if at is None or at.op != "matmul" or any(program.constant(arg) is not None for arg in at.args):
        return
    q, k = at.args
    q, before = _unscaled(program, q)
    k, after = _unscaled(program, k)
    v = node.args[1]
    if any(len(shape(x)) != 4 for x in (q, k, v)) or shape(q)[:2] != shape(k)[:2] or shape(k)[:2] != shape(v)[:2]:
        return
    transpose = program.node(k)
    transposed = not (transpose is not None and transpose.op == "permute_dims" and _axes(transpose) == (0, 1, 3, 2))
    node.what = AttentionCall(q, k if transposed else transpose.args[0], v, scale * before * after, mask=mask, keys_transposed=transposed)
    node.op = "attention"


def _axes(node: Node) -> tuple[int, ...] | None:
    return None if node.attrs.axes is None else tuple(int(a) for a in node.attrs.axes)


def _scaled(program: Program, node: Node) -> tuple[float | None, Expr]:
    """(c, x) of x·c or x/c."""
    if node.op == "divide" and (c := program.scalar(node.args[1])) is not None:
        return 1 / c, node.args[0]
    if node.op == "multiply":
        for x, c in (node.args, node.args[::-1]):
            if (number := program.scalar(c)) is not None:
                return number, x
    return None, node.args[0]


def _unscaled(program: Program, expr: Expr) -> tuple[Expr, float]:
    node = program.node(expr)
    if node is None or node.op not in ("multiply", "divide"):
        return expr, 1.0
    number, inner = _scaled(program, node)
    return (inner, number) if number is not None else (expr, 1.0)


def _score_and_mask(program: Program, add: Node) -> tuple[Expr, Expr]:
    """The operand that leads to q kᵀ, and the other one."""
    leads: Callable[[Expr], bool] = lambda e: (n := program.node(e)) is not None and n.op in ("matmul", "multiply", "divide") and shape(e) == shape(add.var)  # noqa: E731
    a, b = add.args
    return (a, b) if leads(a) else (b, a)
