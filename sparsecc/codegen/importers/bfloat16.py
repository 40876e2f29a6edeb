"""Rounding to bfloat16. TVM takes a cast there and back for nothing at all, and keeps all bits."""

from __future__ import annotations

from typing import Any

from sparsecc.codegen.tvm_api import relax, te, tirx


def cast(builder: Any, x: Any, dtype: str) -> Any:
    """x in another type, a float32 rounded before it becomes a bfloat16."""
    if dtype == "bfloat16" and x.ty.dtype.dtype == "float32":
        x = builder.emit_te(_rounded, x)
    return builder.emit(relax.op.astype(x, dtype))


def _rounded(x: Any) -> Any:
    """To the nearest, of two equally near ones to the even one: half of what is cut off is added, and the lower bits are cleared."""

    def nearest(*at: Any) -> Any:
        bits = tirx.reinterpret("uint32", x[at])
        odd = (bits >> tirx.const(16, "uint32")) & tirx.const(1, "uint32")
        bits = (bits + tirx.const(0x7FFF, "uint32") + odd) & tirx.const(0xFFFF0000, "uint32")
        return tirx.Select(x[at] == x[at], tirx.reinterpret("float32", bits), x[at])

    return te.compute(x.shape, nearest, name="to_bfloat16")
