"""The ONNX meaning of sparse_linear: decode to W [rows, cols], as the format says in `decode`, then MatMul and Add. A node reads

SparseLinear_<format>[_nobias](x, *packed tensors[, bias])  {format, rows, cols, site}
"""

from __future__ import annotations

from typing import Any

from sparsecc.formats.base import Format
from sparsecc.ops.onnx_body import Body, Value
from sparsecc.ops.onnx_decoding import decoded
from sparsecc.ops.onnx_layer import LayerFunctions, with_bias


class SparseLinearFunctions(LayerFunctions[Format[Any]]):
    """One for each format, of whatever shape."""

    def output(self, body: Body, storage: Format[Any], rows: int, cols: int) -> Value:
        weight = decoded(body, {name: body.inputs[name] for name in storage.tensor_names}, storage)
        return with_bias(body, body.op("MatMul", body.inputs["x"], body.op("Transpose", weight, perm=[1, 0])))
