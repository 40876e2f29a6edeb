"""An operator with a weight as an ONNX file has it: one node that calls its function."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from sparsecc.graph.onnx.optional import require
from sparsecc.graph.onnx.sparse import initializer
from sparsecc.ops import layer_functions
from sparsecc.ops.base import ONNX_DOMAIN, SiteOp
from sparsecc.ops.onnx_body import DOMAIN_VERSION


def model_of(op: SiteOp, x_shape: list[int | str], opset: int = 18, ir_version: int = 8) -> onnx.ModelProto:
    functions, stored = layer_functions(type(op).__name__), op.stored
    call = functions.call(op, "here")
    function = functions.function(stored.storage, stored.rows, stored.cols, op.bias is not None, opset)
    tensors = dict(stored.tensors) | ({"bias": op.bias} if op.bias is not None else {})
    node = helper.make_node(call.op_type, ["x", *tensors], ["y"], domain=ONNX_DOMAIN, **call.attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(x_shape))
    weights = [ir.serde.serialize_tensor(require(initializer(tensor, name).const_value)) for name, tensor in tensors.items()]
    graph = helper.make_graph([node], "g", [x], [y], weights)
    imports = {**function.opset_imports, ONNX_DOMAIN: DOMAIN_VERSION}
    opsets = [helper.make_opsetid(domain, version) for domain, version in imports.items()]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=[ir.serde.serialize_function(function)])
    onnx.checker.check_model(proto, full_check=True)
    return proto
