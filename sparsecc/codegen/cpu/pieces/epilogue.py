"""What a kernel does to a sum before it stores it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparsecc.codegen.cpu.pieces import math
from sparsecc.codegen.spec import Epilogue
from sparsecc.codegen.tvm_api import T

Expr = Any


def apply(epilogue: Epilogue, total: Expr, residual: Callable[[], Expr]) -> Expr:
    """The expression to store. `residual()` reads the matching element; it is called only when there is one."""
    if epilogue.residual and epilogue.residual_first:
        total = total + residual()
    if epilogue.activation is not None:
        total = math.ACTIVATIONS[epilogue.activation](total)
    if (epilogue.scale, epilogue.shift) != (1.0, 0.0):
        total = total * T.float32(epilogue.scale) + T.float32(epilogue.shift)
    if epilogue.residual and not epilogue.residual_first:
        total = total + residual()
    return total
