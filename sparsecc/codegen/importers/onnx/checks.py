"""What TVM's ONNX importer takes without a word and gets wrong, found by holding it against what the file says."""

from __future__ import annotations

import math
from typing import Any

import onnx
from onnx import helper

from sparsecc.codegen.tvm_api import relax
from sparsecc.errors import ModelError


def check_outputs(model: onnx.ModelProto, module: Any, where: str) -> None:
    """What was converted has the shapes and dtypes that the file declares for its outputs."""
    result = module["main"].ret_ty
    types = list(result.fields) if isinstance(result, relax.TupleType) else [result]
    makers = {name: node for node in model.graph.node for name in node.output}
    for value, ty in zip(model.graph.output, types, strict=True):
        maker = makers.get(value.name)
        made = f"output '{value.name}'" + (f" of {maker.op_type} (at '{maker.name or value.name}')" if maker is not None else "")
        sizes = list(ty.shape or []) if isinstance(ty, relax.TensorType) else None
        if sizes is None or not all(hasattr(size, "value") for size in sizes):
            raise ModelError(f"{where}: the compiler needs fixed sizes, and that of {made} is not known before it runs")
        dtype = str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        declared = [d.dim_value for d in value.type.tensor_type.shape.dim]
        ours = [int(size) for size in sizes]
        if not value.type.tensor_type.HasField("shape"):
            declared = ours  # the file says nothing of it
        if str(ty.dtype.dtype) != dtype or (all(declared) and math.prod(ours) and ours != declared):
            raise ModelError(
                f"{where}: the compiler takes {made} wrongly: it would give {ours} {ty.dtype.dtype}, the file says {declared} {dtype}"
            )
