"""The ONNX meaning of quantized_linear: decode sparse values, then multiply as the precision says in `product`. A node reads

QuantizedLinear_<scheme>[_nobias](x, *tensors[, bias])  {scheme, rows, cols, site}
"""

from __future__ import annotations

from collections.abc import Mapping

from sparsecc.ops.onnx_body import Body, Value
from sparsecc.ops.onnx_decoding import OnnxOps, decoded
from sparsecc.ops.onnx_layer import LayerFunctions, with_bias
from sparsecc.precisions.base import Scheme


class QuantizedLinearFunctions(LayerFunctions[Scheme]):
    """One for each scheme, of whatever shape."""

    def output(self, body: Body, storage: Scheme, rows: int, cols: int) -> Value:
        scales = {name: body.inputs[name] for name in storage.precision.scale_names}
        return with_bias(body, _product(body, storage, scales))


def _product(body: Body, storage: Scheme, scales: Mapping[str, Value]) -> Value:
    precision, x, first = storage.precision, body.inputs["x"], storage.value_names[0]
    if storage.format is None and storage.in_pairs:
        short = precision.product_of_pairs(body, x, body.inputs[first], scales)
        if short is not None:
            return short
    stored = {name: body.inputs[name] for name in storage.value_names}
    stored[first] = precision.numbers(body, storage.apart(OnnxOps(body), stored), x)
    weight = decoded(body, stored, storage.format) if storage.format else stored[first]
    return precision.product(body, x, body.op("Transpose", weight, perm=[1, 0]), scales)
