"""What becomes of a sum before it is stored: bias, activation, the other factor of a gated layer, residual, in float32.

A kernel declares `B` [rows] and `R` [tokens, outputs] always. Where the spec has them not, nothing reads them, and they are no parameters
of the device code. Both may come from the kernel before: they are read after `griddepcontrol.wait`.

In a gated layer a tile of 16 rows holds 8 rows of the gate and the 8 of the other factor that belong to them (`pack.interleave`), so that a
lane of an `mma` has both sums of an output: registers 0, 1 and 2, 3.
"""

from __future__ import annotations

import math
from typing import Any

from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.script import T

_TANH = math.sqrt(2 / math.pi)


def result(spec: LinearSpec, bias: Any, residual: Any, token: Any, output: Any, total: Any, other: Any = None) -> Any:
    """The number to store as Y[token, output].  total: the sum of the output's row, in a gated layer of the gate's.  other: of the
    other factor's row.  bias, residual: the kernel's buffers.  Expressions of TIR, evaluated where they stand: give sums that lie in
    registers."""
    value = total
    if spec.bias:
        value = value + T.cast(bias[output], "float32")
    value = activated(spec.activation, value)
    if spec.gated:
        value = value * (other + T.cast(bias[spec.outputs + output], "float32") if spec.bias else other)
    if spec.residual:
        value = value + T.cast(residual[token, output], "float32")
    return T.cast(value, spec.dtype)


def activated(activation: str, value: Any) -> Any:
    """Raises KeyError for one that `ACTIVATIONS` has not."""
    half, one = T.float32(0.5), T.float32(1)
    return {
        "": lambda: value,
        "relu": lambda: T.Select(value < T.float32(0), T.float32(0), value),  # NaN stays
        "silu": lambda: value / (one + T.exp(-value)),
        "gelu": lambda: half * value * (one + T.erf(value * T.float32(math.sqrt(0.5)))),
        "gelu_tanh": lambda: half * value * (one + T.tanh(T.float32(_TANH) * (value + T.float32(0.044715) * value * value * value))),
    }[activation]()


def tile_row(spec: LinearSpec, output: Any) -> Any:
    """The packed row whose sum is an output's `total`; in a gated layer `other` is 8 rows on."""
    return output // 8 * 16 + output % 8 if spec.gated else output
