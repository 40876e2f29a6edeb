"""Integer products that are right on some CPUs only, found by types, not by running them.

On x86 CPUs without VNNI onnxruntime multiplies unsigned activations by signed weights with `pmaddubsw`, which adds two neighbouring
products in 16 bits and saturates. Signed activations between QuantizeLinear and DequantizeLinear are made unsigned first.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

_SAFE = 64  # the largest weight of which 2 · 255 · weight fits into 16 bits
_DYNAMIC = "DynamicQuantizeMatMul"
_OPERANDS = {  # operator → where activations and weights are among its inputs
    "MatMulInteger": (0, 1),
    "ConvInteger": (0, 1),
    "QLinearMatMul": (0, 3),
    "QLinearConv": (0, 3),
    "MatMulIntegerToFloat": (0, 1),
    _DYNAMIC: (0, 1),
    "QAttention": (0, 1),
    "QGemm": (0, 3),
}
_FLOAT_PRODUCTS = ("MatMul", "Gemm", "Conv")


def saturating(model: ir.Model) -> Iterator[ir.Node]:
    """Nodes whose result may be wrong on an x86 CPU without VNNI."""
    for node in model.graph.all_nodes():
        places = _OPERANDS.get(node.op_type, (0, 1) if node.op_type in _FLOAT_PRODUCTS else None)
        if places is None or len(node.inputs) <= max(places):
            continue
        x, weight = (node.inputs[place] for place in places)
        if node.op_type in _FLOAT_PRODUCTS:
            x, weight = _before_dequantizing(x), _before_dequantizing(weight)
            unsigned = x is not None and x.dtype in (ir.DataType.UINT8, ir.DataType.INT8)
        else:
            unsigned = node.op_type == _DYNAMIC or (x is not None and x.dtype == ir.DataType.UINT8)
        if unsigned and weight is not None and weight.dtype == ir.DataType.INT8 and _is_wide(weight):
            yield node


def _before_dequantizing(value: ir.Value | None) -> ir.Value | None:
    producer = None if value is None else value.producer()
    return producer.inputs[0] if producer is not None and producer.op_type == "DequantizeLinear" else None


def _is_wide(weight: ir.Value) -> bool:
    constant = ir.convenience.get_const_tensor(weight)
    return constant is None or bool(constant.size and np.abs(constant.numpy().astype(np.int16)).max() > _SAFE)
