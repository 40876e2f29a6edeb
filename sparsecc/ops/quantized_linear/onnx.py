"""The ONNX meaning of quantized_linear: decode sparse values, then multiply as the precision says in `product`. A node reads

QuantizedLinear_<scheme>[_nobias](x, *tensors[, bias])  {scheme, rows, cols, site}
"""

from __future__ import annotations

from sparsecc.ops.onnx_body import Body, Value
from sparsecc.ops.onnx_decoding import OnnxOps, decoded
from sparsecc.ops.onnx_layer import LayerFunctions, with_bias
from sparsecc.precisions.base import Scheme


class QuantizedLinearFunctions(LayerFunctions[Scheme]):
    """One for each scheme, of whatever shape."""

    def output(self, body: Body, storage: Scheme, rows: int, cols: int) -> Value:
        precision, x = storage.precision, body.inputs["x"]
        stored = {name: body.inputs[name] for name in storage.value_names}
        stored[storage.value_names[0]] = precision.numbers(body, storage.apart(OnnxOps(body), stored), x)
        weight = decoded(body, stored, storage.format) if storage.format else stored[storage.value_names[0]]
        scales = {name: body.inputs[name] for name in precision.scale_names}
        return with_bias(body, precision.product(body, x, body.op("Transpose", weight, perm=[1, 0]), scales))
