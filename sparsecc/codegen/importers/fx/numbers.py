"""torch operators whose result type follows torch's own rules: sums of integers and flags are int64, a limit of an integer is one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

from sparsecc.codegen.importers.base import args_of, arguments
from sparsecc.codegen.tvm_api import relax

Emit = Callable[[Any], Any]


def result_dtype(node: fx.Node) -> str:
    return str(node.meta["val"].dtype).removeprefix("torch.")


def cast(emit: Emit, x: Any, dtype: str) -> Any:
    return x if x.ty.dtype.dtype == dtype else emit(relax.op.astype(x, dtype))


def running(op: Callable[..., Any]) -> Callable[[fx.Node, Any], Any]:
    """cumsum and cumprod, computed in the type of the result."""

    def convert(node: fx.Node, importer: Any) -> Any:
        given, emit = arguments(node), importer.block_builder.emit
        dtype = result_dtype(node)
        return emit(op(cast(emit, importer.env[given["self"]], dtype), given["dim"], dtype))

    return convert


def total(op: Callable[..., Any]) -> Callable[[fx.Node, Any], Any]:
    """sum, prod and mean (x, dim or dims or nothing, keepdim, dtype), computed in the type of the result; no dims are all of them."""

    def convert(node: fx.Node, importer: Any) -> Any:
        given, emit = {"dim": None, "keepdim": False, **arguments(node)}, importer.block_builder.emit
        axes = [given["dim"]] if isinstance(given["dim"], int) else list(given["dim"] or []) or None
        return emit(op(cast(emit, importer.env[given["self"]], result_dtype(node)), axis=axes, keepdims=given["keepdim"]))

    return convert


def clamp(node: fx.Node, importer: Any) -> Any:
    """clamp, clamp_min and clamp_max by numbers or tensors. Floats between numbers are one clip, which is recognized as an activation;
    where the limits cross, all is the upper one."""
    given, emit = {"min": None, "max": None, **arguments(node)}, importer.block_builder.emit
    dtype = result_dtype(node)
    numbers = not any(isinstance(given[name], fx.Node) for name in ("min", "max"))
    if numbers and "float" in dtype and importer.env[given["self"]].ty.dtype.dtype == dtype:
        high = math.inf if given["max"] is None else given["max"]
        low = -math.inf if given["min"] is None else min(given["min"], high)
        return emit(relax.op.clip(importer.env[given["self"]], low, high))
    y = cast(emit, importer.env[given["self"]], dtype)
    for name, op in (("min", relax.op.maximum), ("max", relax.op.minimum)):
        limit = given[name]
        if limit is not None:
            y = emit(op(y, cast(emit, importer.env[limit], dtype) if isinstance(limit, fx.Node) else relax.const(limit, dtype)))
    return y


def divide(node: fx.Node, importer: Any) -> Any:
    """Division that may be rounded; a number beside integers is one of them, as in torch."""
    (a, b), emit, dtype = _operands(node, importer), importer.block_builder.emit, result_dtype(node)
    rounding = {"rounding_mode": "floor", **arguments(node)}["rounding_mode"]  # floor_divide has no choice
    if rounding == "floor":
        return _floor_of_floats(emit, a, b, dtype) if "float" in dtype else emit(relax.op.floor_divide(a, b))
    quotient = emit(relax.op.divide(a, b))  # of integers, towards zero
    return emit(relax.op.trunc(quotient)) if rounding == "trunc" and "float" in dtype else quotient


def _floor_of_floats(emit: Emit, a: Any, b: Any, dtype: str) -> Any:
    """(a - remainder) / b, as torch has it: a / b may be rounded up to the next integer, as 1 / 0.1 is, of which the floor is 9."""
    left, zero, quotient = emit(relax.op.mod(a, b)), relax.const(0, dtype), emit(relax.op.divide(a, b))
    whole = emit(relax.op.round(emit(relax.op.divide(emit(relax.op.subtract(a, left)), b))))
    below = emit(relax.op.subtract(whole, relax.const(1, dtype)))
    whole = emit(relax.op.where(_signs_differ(emit, left, b, zero), below, whole))
    return emit(relax.op.where(emit(relax.op.equal(b, zero)), quotient, whole))


def _signs_differ(emit: Emit, left: Any, b: Any, zero: Any) -> Any:
    """Whether there is a remainder that has not the divisor's sign."""
    other = emit(relax.op.not_equal(emit(relax.op.less(left, zero)), emit(relax.op.less(b, zero))))
    return emit(relax.op.logical_and(emit(relax.op.not_equal(left, zero)), other))


def _operands(node: fx.Node, importer: Any) -> list[Any]:
    """The first two, in the type of the result."""
    emit, dtype = importer.block_builder.emit, result_dtype(node)
    return [cast(emit, importer.env[x], dtype) if isinstance(x, fx.Node) else relax.const(x, dtype) for x in args_of(node)[:2]]


def remainder(node: fx.Node, importer: Any) -> Any:
    """With the divisor's sign. Of floats it is exact, as torch's: a - floor(a / b) * b is off by the rounding of a."""
    (a, b), emit, dtype = _operands(node, importer), importer.block_builder.emit, result_dtype(node)
    if "float" not in dtype:
        return emit(relax.op.floor_mod(a, b))
    left, zero = emit(relax.op.mod(a, b)), relax.const(0, dtype)
    return emit(relax.op.where(_signs_differ(emit, left, b, zero), emit(relax.op.add(left, b)), left))


def shift(node: fx.Node, importer: Any) -> Any:
    """By more bits than there are, or a negative number: what is left of all bits, as torch has it."""
    (a, by), emit, dtype = _operands(node, importer), importer.block_builder.emit, result_dtype(node)
    bits, signed = np.iinfo(dtype).bits, not dtype.startswith("u")
    least = emit(relax.op.greater_equal(by, relax.const(0, dtype)))
    within = emit(relax.op.logical_and(least, emit(relax.op.less(by, relax.const(bits, dtype)))))
    most = emit(relax.op.where(within, by, relax.const(bits - 1, dtype)))
    if "left" in str(node.target) or "lshift" in str(node.target):
        return emit(relax.op.where(within, emit(relax.op.left_shift(a, most)), relax.const(0, dtype)))
    shifted = emit(relax.op.right_shift(a, most))
    return shifted if signed else emit(relax.op.where(within, shifted, relax.const(0, dtype)))


def one_by_one(function: Callable[[Emit, Any], Any]) -> Callable[[fx.Node, Any], Any]:
    """A function of single elements, computed in the type of the result."""

    def convert(node: fx.Node, importer: Any) -> Any:
        emit = importer.block_builder.emit
        return function(emit, cast(emit, importer.env[args_of(node)[0]], result_dtype(node)))

    return convert


def filled(value: float | None = None) -> Callable[[fx.Node, Any], Any]:
    """A tensor of one number, in the shape and type that torch says; without a value it is the node's argument."""

    def convert(node: fx.Node, importer: Any) -> Any:
        given, dtype = arguments(node), result_dtype(node)
        number = value if value is not None else given["fill_value"]
        number = importer.env[number] if isinstance(number, fx.Node) else relax.const(number, dtype)
        return importer.block_builder.emit(relax.op.full(list(node.meta["val"].shape), number, dtype))

    return convert
