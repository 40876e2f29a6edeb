"""Decoding as an ONNX file does it: the primitives are written into a function, and onnxruntime calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from sparsecc.ops.base import ONNX_DOMAIN
from sparsecc.ops.onnx_body import Body
from sparsecc.ops.onnx_decoding import OnnxOps
from tests.graph import onnx_models as models


def written(decode: Callable[[Any, Mapping[str, Any]], Any], tensors: Mapping[str, Tensor], rows: int, cols: int) -> Tensor:
    """What onnxruntime makes of `decode(ops, tensors)`."""
    body = Body(list(tensors), 18)
    sizes = {"rows": ir.AttributeType.INT, "cols": ir.AttributeType.INT}
    function = body.function("Decode", decode(OnnxOps(body), body.inputs), sizes)
    node = helper.make_node("Decode", list(tensors), ["y"], domain=ONNX_DOMAIN, rows=rows, cols=cols)
    weights = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in tensors.items()]
    graph = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name="y")], weights)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(ONNX_DOMAIN, 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[ir.serde.serialize_function(function)])
    return torch.from_numpy(models.run(proto)[0])
