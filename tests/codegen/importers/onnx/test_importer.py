from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc.codegen.importers.onnx.importer import import_onnx
from sparsecc.codegen.recognize.layers import recognize
from sparsecc.codegen.recognize.program import Program
from sparsecc.errors import ModelError
from sparsecc.formats.base import Packed
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Conv2d
from tests.codegen.whole import packed
from tests.graph.onnx.contrib.apart import floats, single
from tests.graph.onnx_models import cnn, mlp


def model(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> onnx.ModelProto:
    """x f32[2, 4] -> y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_model_becomes_a_function() -> None:
    imported = import_onnx(model([helper.make_node("MatMul", ["x", "w"], ["y"])], w=np.ones((4, 3), np.float32)))
    [parameter] = imported.module["main"].params
    assert [int(size) for size in parameter.ty.shape] == [2, 4]
    assert [int(size) for size in imported.module["main"].ret_ty.shape] == [2, 3]


def test_every_missing_operator_is_listed_with_a_place() -> None:
    nodes = [
        helper.make_node("Det", ["x"], ["a"], name="first"),
        helper.make_node("Det", ["a"], ["b"], name="second"),
        helper.make_node("StringNormalizer", ["b"], ["y"]),
    ]
    with pytest.raises(ModelError) as raised:
        import_onnx(model(nodes), "m.onnx")
    assert str(raised.value) == "m.onnx: the compiler has no operator for: Det (at 'first'), StringNormalizer (at 'y')"


def test_shapes_that_do_not_fit_name_the_operator() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")
    with pytest.raises(ModelError, match=r"^m\.onnx: the compiler cannot take MatMul \(at 'fc'\): ") as raised:
        import_onnx(model([node], w=np.ones((5, 3), np.float32)), "m.onnx")
    assert "\n" not in str(raised.value) and "Metadata" not in str(raised.value)
    assert " 4 and 5 are not equal" in str(raised.value)


def test_packed_weights_are_placeholders_with_their_sites() -> None:
    graph = packed(OnnxGraph.from_proto(mlp(), {"x": [5, 32]}), "2:4", 0.5)
    found = import_onnx(graph.proto()).placeholders.values()
    assert [(p.kind, p.name, isinstance(p.stored, Packed) and p.stored.format.key) for p in found] == [
        ("linear", "fc1", "nm:2:4"),
        ("linear", "fc2", "nm:2:4"),
        ("linear", "head", "nm:2:4"),
    ]
    assert all(p.bias is not None for p in found)


def test_packed_convolutions_keep_their_geometry() -> None:
    graph = OnnxGraph.from_proto(cnn()[0])
    graph = packed(graph.fixed({spec.name: [2 if isinstance(d, str) else d for d in spec.shape] for spec in graph.inputs}), "4x1", 0.75)
    found = [p for p in import_onnx(graph.proto()).placeholders.values() if p.kind == "conv2d"]
    assert found
    sites = {site.name: site for site in graph.sites(Conv2d)}
    for placeholder in found:
        site = sites[placeholder.name]
        assert placeholder.attributes["stride"] == tuple(site.stride)
        assert placeholder.attributes["padding"] == tuple(site.padding)
        assert placeholder.attributes["dilation"] == tuple(site.dilation)


@pytest.mark.filterwarnings("ignore:Renaming name")
def test_packed_weights_must_be_constants() -> None:
    proto = packed(OnnxGraph.from_proto(mlp(), {"x": [5, 32]}), "4x1", 0.75).proto()
    sparse = next(node for node in proto.graph.node if node.op_type.startswith("SparseLinear_"))
    [values] = [tensor for tensor in proto.graph.initializer if tensor.name == sparse.input[1]]
    proto.graph.initializer.remove(values)
    proto.graph.input.append(helper.make_tensor_value_info(values.name, values.data_type, values.dims))
    with pytest.raises(ModelError, match="packed weights must be constants of the model"):
        import_onnx(proto)


def test_control_flow_is_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 4])]
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    with pytest.raises(ModelError, match=r"the compiler"):
        Program.of(import_onnx(model(nodes)))


@pytest.mark.parametrize("op_type", ["Attention", "MultiHeadAttention"])
def test_attention_of_onnxruntime_is_one_call(op_type: str) -> None:
    x = floats(2, 16, 32)
    if op_type == "Attention":
        mask = np.ones((2, 16), np.int32)
        proto = single(op_type, "x w b m", {"x": x, "m": mask}, {"w": floats(32, 96), "b": floats(96)}, num_heads=4)
    else:
        proto = single(op_type, "x k v", {"x": x, "k": x, "v": x}, num_heads=4)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 16, 32]))
    program = Program.of(import_onnx(OnnxGraph.from_proto(proto, standard=True).proto()))
    recognize(program)
    assert [node.op for node in program.nodes].count("attention") == 1
    assert "nn.softmax" not in [node.op for node in program.nodes]
