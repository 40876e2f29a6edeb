"""The ONNX meaning of sparse_conv2d: decode to the matrix [out, kh·kw·in], as the format says in `decode`, then Conv. A node reads

SparseConv2d_<format>[_nobias](x, *packed tensors[, bias])  {format, rows, cols, site, kernel_shape, strides, pads, dilations}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparsecc.formats.base import Format
from sparsecc.ops.base import SiteOp
from sparsecc.ops.onnx_body import Body, Value
from sparsecc.ops.onnx_decoding import decoded
from sparsecc.ops.onnx_layer import LayerFunctions
from sparsecc.ops.sparse_conv2d.torch import SparseConv2d


class SparseConv2dFunctions(LayerFunctions[Format[Any]]):
    """One for each format, of whatever shape and geometry."""

    def geometry(self, op: SiteOp) -> Mapping[str, Sequence[int]]:
        assert isinstance(op, SparseConv2d)
        return {"kernel_shape": op.kernel, "strides": op.stride, "pads": op.padding, "dilations": op.dilation}

    def output(self, body: Body, storage: Format[Any], rows: int, cols: int) -> Value:
        """The matrix has the channels innermost; Conv wants [out, in, kh, kw]."""
        weight = decoded(body, {name: body.inputs[name] for name in storage.tensor_names}, storage)
        taps = body.op("Reshape", weight, body.concat(body.rows, body.ints_of("kernel_shape"), body.ints(-1)))
        kernel = body.op("Transpose", taps, perm=[0, 3, 1, 2])
        forwarded = {name: body.forward(name, name) for name in ("strides", "pads", "dilations")}
        operands = [body.inputs[name] for name in ("bias",) if name in body.inputs]
        return body.op("Conv", body.inputs["x"], kernel, *operands, **forwarded)
