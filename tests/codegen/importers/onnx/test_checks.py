from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from sparsecc.codegen.importers.onnx.importer import import_onnx
from sparsecc.errors import ModelError
from tests.graph.onnx_models import model, node


def declared(shape: list[int], elem_type: int = TensorProto.FLOAT) -> onnx.ModelProto:
    proto = model([node("Relu", "x", "y")], {"x": [2, 4]}, {"y": shape})
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", elem_type, shape))
    proto.graph.node[0].name = "act"
    return proto


@pytest.mark.parametrize(
    ("proto", "said"),
    [(declared([2, 5]), r"\[2, 5\] float32"), (declared([2, 4], TensorProto.INT64), r"\[2, 4\] int64")],
    ids=["shape", "dtype"],
)
def test_another_output_than_the_file_says(proto: onnx.ModelProto, said: str) -> None:
    message = (
        rf"^m\.onnx: the compiler takes output 'y' of Relu \(at 'act'\) wrongly: it would give \[2, 4\] float32, the file says {said}$"
    )
    with pytest.raises(ModelError, match=message):
        import_onnx(proto, "m.onnx")


def test_an_undeclared_size_is_taken_as_it_comes() -> None:
    found = import_onnx(model([node("Relu", "x", "y")], {"x": [2, 4]}, {"y": [2, "n"]}))
    assert [int(size) for size in found.module["main"].ret_ty.shape] == [2, 4]
