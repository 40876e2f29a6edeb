"""ONNX's Cast, where TVM's keeps all bits of a bfloat16, and takes ten operators to make an integer."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto

from sparsecc.codegen.importers.bfloat16 import cast
from sparsecc.codegen.tvm_api import GenericConst, onnx_frontend, relax

# Through what a float becomes an integer in onnxruntime on x86: what does not fit is the lowest number of the first type, and narrower
# types keep its lower bits. Each cast of TVM's reads its input four times, so that a chain of them, fused, takes minutes to simplify.
_STEPS = {
    TensorProto.INT8: ("int32", "int8"),
    TensorProto.UINT8: ("int32", "uint8"),
    TensorProto.INT16: ("int32", "int16"),
    TensorProto.UINT16: ("int32", "uint16"),
    TensorProto.INT32: ("int32",),
    TensorProto.INT64: ("int64",),
    TensorProto.UINT32: ("int64", "uint32"),
}


class CastConverter:
    """For TVM's table of converters."""

    @classmethod
    def get_converter(cls, opset: int) -> Any:
        usual = onnx_frontend.Cast.get_converter(opset)

        def convert(builder: Any, inputs: Any, attributes: dict[str, Any], params: Any) -> Any:
            x, wanted = inputs[0], attributes["to"]
            dtype = "" if isinstance(x, GenericConst) or not isinstance(getattr(x, "ty", None), relax.TensorType) else x.ty.dtype.dtype
            if wanted == TensorProto.BFLOAT16 and dtype == "float32":
                return cast(builder, x, "bfloat16")
            if dtype in ("float16", "float32", "float64") and wanted in _STEPS:
                for step in _STEPS[wanted]:
                    x = builder.emit(relax.op.astype(x, step))
                return x
            return usual(builder, inputs, attributes, params)

        return convert
