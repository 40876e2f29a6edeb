"""Activations, with what is added before them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sparsecc.graph.onnx.contrib.parts import CannotError, Parts


def gelu(parts: Parts) -> Sequence[str]:
    return [exact_gelu(parts, parts.node.input[0])]


def bias_gelu(parts: Parts) -> Sequence[str]:
    return [exact_gelu(parts, parts.sum(*parts.inputs(2)))]


def fast_gelu(parts: Parts) -> Sequence[str]:
    return [tanh_gelu(parts, parts.sum(*parts.inputs(2)))]


def quick_gelu(parts: Parts) -> Sequence[str]:
    """x · sigmoid(alpha · x)"""
    x, alpha = parts.node.input[0], parts.get("alpha", 1.702)
    scaled = x if alpha == 1 else parts.op("Mul", x, parts.number(alpha))
    return [parts.op("Mul", x, parts.op("Sigmoid", scaled))]


def bias_add(parts: Parts) -> Sequence[str]:
    return [parts.sum(*parts.inputs(3))]


def bias_softmax(parts: Parts) -> Sequence[str]:
    """Of x + bias, over all axes from `axis` on."""
    x, bias = parts.inputs(2)
    axis, rank = parts.get("axis", 1), len(parts.shape(x))
    if axis not in (-1, rank - 1):
        raise CannotError("its softmax runs over several axes")
    if not parts.get("is_inner_broadcast", 1) and len(parts.shape(bias)) == rank:
        raise CannotError("its bias repeats by blocks")
    return [parts.op("Softmax", parts.op("Add", x, bias), axis=-1)]


def range_of(parts: Parts) -> Sequence[str]:
    """The standard's needs a step."""
    start, limit, step = parts.inputs(3)
    if step is None:
        step = parts.op("CastLike", parts.const(1, np.int64), start)
    return [parts.op("Range", start, limit, step)]


def exact_gelu(parts: Parts, x: str) -> str:
    """½ · x · (1 + erf(x / √2))"""
    erf = parts.op("Erf", parts.op("Div", x, parts.number(math.sqrt(2))))
    product = parts.op("Mul", x, parts.op("Add", erf, parts.number(1)))
    return parts.op("Mul", product, parts.number(0.5))


def tanh_gelu(parts: Parts, x: str) -> str:
    """½ · x · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))"""
    cube = parts.op("Mul", parts.op("Mul", x, x), x)
    inner = parts.op("Add", x, parts.op("Mul", cube, parts.number(0.044715)))
    tanh = parts.op("Tanh", parts.op("Mul", inner, parts.number(math.sqrt(2 / math.pi))))
    product = parts.op("Mul", x, parts.op("Add", tanh, parts.number(1)))
    return parts.op("Mul", product, parts.number(0.5))


def activated(parts: Parts, x: str, name: str, numbers: Sequence[float | None]) -> str:
    """An activation that was fused into a layer.  numbers: its alpha, beta and gamma, where they are given."""
    alpha, beta = (*numbers, None, None)[:2]
    if not name:
        return x
    if name == "Clip":
        return parts.op("Clip", x, parts.number(-math.inf if alpha is None else alpha), parts.number(math.inf if beta is None else beta))
    if name in ("LeakyRelu", "Elu"):
        return parts.op(name, x) if alpha is None else parts.op(name, x, alpha=alpha)
    if name == "HardSigmoid":
        return parts.op(name, x, alpha=0.2 if alpha is None else alpha, beta=0.5 if beta is None else beta)
    if name in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign"):
        return parts.op(name, x)
    if name == "QuickGelu":
        return parts.op("Mul", x, parts.op("Sigmoid", parts.op("Mul", x, parts.number(1.702 if alpha is None else alpha))))
    raise CannotError(f"its activation {name} is not known")
