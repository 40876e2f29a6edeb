"""Files of before 2019 and files by hand: what onnxruntime takes is taken, and means the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc.errors import InputError, ModelError
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Linear
from tests.graph import onnx_models as models
from tests.graph.onnx_models import node, random


def listed(proto: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """With initializers among the inputs."""
    for tensor in proto.graph.initializer:
        if not names or tensor.name in names:
            proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return proto


def scaled() -> onnx.ModelProto:
    """x -> fc -> times scale, which is 1 unless a caller says something else."""
    nodes = [node("MatMul", "x w", "h"), node("Mul", "h scale", "y")]
    return listed(models.model(nodes, {"x": ["n", 32]}, {"y": ["n", 16]}, {"w": random(32, 16), "scale": np.array(1, np.float32)}), "scale")


def test_weights_that_an_old_file_lists_as_inputs() -> None:
    proto = listed(models.mlp(8))
    proto.ir_version = 3
    graph, x = OnnxGraph.from_proto(proto), random(2, 32)
    assert [spec.name for spec in graph.inputs] == ["x"]
    assert [site.name for site in graph.sites(Linear)] == ["fc1", "fc2", "head"]
    assert np.allclose(graph.run([x]).outputs[0], models.run(proto, x=x)[0], atol=1e-5)
    assert not graph.notes


def test_an_input_with_a_default_stays_one_also_in_a_file(tmp_path: Path) -> None:
    graph, x, three = OnnxGraph.from_proto(scaled()), random(2, 32), np.array(3, np.float32)
    graph.copy().save(tmp_path / "m.onnx")
    usual, tripled = models.run(scaled(), x=x)[0], models.run(scaled(), x=x, scale=three)[0]
    for again in (graph, OnnxGraph.from_file(tmp_path / "m.onnx")):
        assert [(spec.name, spec.default) for spec in again.inputs] == [("x", None), ("scale", 1)]
        assert np.allclose(again.run([x]).outputs[0], usual, atol=1e-5)
        assert np.allclose(again.run({"x": x, "scale": three}).outputs[0], tripled, atol=1e-5)
    for proto in (graph.proto(), onnx.load(tmp_path / "m.onnx")):
        assert np.allclose(models.run(proto, x=x, scale=three)[0], tripled, atol=1e-5)
        assert np.allclose(models.run(proto, x=x)[0], usual, atol=1e-5)
    with pytest.raises(InputError, match="'x' is missing"):
        graph.run({"scale": three})


def test_all_of_an_exporters_inputs_become_constants_and_that_is_said() -> None:
    graph = OnnxGraph.from_proto(listed(scaled(), "w"))
    assert [spec.name for spec in graph.inputs] == ["x"]
    assert [site.name for site in graph.sites(Linear)] == ["h"]
    (note,) = graph.notes
    assert note.endswith("callers can no longer set 'scale', 'w'")


def test_the_standard_by_its_other_name() -> None:
    proto = models.mlp()
    proto.opset_import[0].domain = "ai.onnx"
    for made in proto.graph.node:
        made.domain = "ai.onnx"
    assert len(OnnxGraph.from_proto(proto).sites(Linear)) == 3


def test_domains_that_nothing_imports() -> None:
    nodes = [node("MatMul", "x w", "h"), helper.make_node("Gelu", ["h"], ["y"], domain="com.microsoft")]
    proto = models.model(nodes, {"x": ["n", 32]}, {"y": None}, {"w": random(32, 16)}, opset=17)
    graph, x = OnnxGraph.from_proto(proto), random(2, 32)
    assert np.allclose(models.run(graph.proto(), x=x)[0], models.run(proto, x=x)[0], atol=1e-5)


def test_a_domain_that_is_no_text(tmp_path: Path) -> None:
    proto = models.model([helper.make_node("Relu", ["x"], ["y"], domain="strange")], {"x": [2]}, {"y": [2]})
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString().replace(b"strange", b"strang\xa0"))
    with pytest.raises(ModelError, match=r"operators that opset \d+ does not have: b'strang\\xa0'::Relu \(at 'y'\)"):
        OnnxGraph.from_file(path)


def test_a_file_of_another_domain_alone() -> None:
    scaler = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.0], scale=[2.0])
    proto = models.model([scaler], {"x": ["n", 4]}, {"y": ["n", 4]})
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    x = random(2, 4)
    assert np.allclose(OnnxGraph.from_proto(proto).run([x]).outputs[0], 2 * x)


def sparse(indices: np.ndarray, values: int = 3, shape: tuple[int, ...] = (4, 8)) -> onnx.ModelProto:
    proto = models.model([node("MatMul", "x w", "y")], {"x": ["n", 4]}, {"y": ["n", 8]})
    numbers = numpy_helper.from_array(np.arange(1, values + 1, dtype=np.float32), "w")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(numbers, numpy_helper.from_array(indices), shape))
    return proto


@pytest.mark.parametrize("indices", [np.array([1, 10, 31], np.int64), np.array([[0, 1], [1, 2], [3, 7]], np.int64)])
def test_a_sparse_initializer_is_the_weight_with_its_zeros(indices: np.ndarray) -> None:
    (site,) = OnnxGraph.from_proto(sparse(indices)).sites(Linear)
    weight = site.weight.numpy().T
    assert [weight[0, 1], weight[1, 2], weight[3, 7]] == [1, 2, 3]
    assert np.count_nonzero(weight) == 3


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (sparse(np.array([1, 2, 32], np.int64)), "an index lies outside"),
        (sparse(np.array([1, 2, -1], np.int64)), "an index lies outside"),
        (sparse(np.array([1, 2], np.int64)), r"\(2,\) indices for \(3,\) values"),
        (sparse(np.array([1, 2, 3], np.int64), shape=(2**20, 2**20)), "too large to be made dense"),
        (sparse(np.array([1, 2, 3], np.int64), shape=(-4, -8)), "its shape .* is none"),
    ],
)
def test_sparse_initializers_that_are_none(proto: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ModelError, match=f"sparse_initializer 'w': .*{message}"):
        OnnxGraph.from_proto(proto)


def test_a_sparse_constant() -> None:
    (tensor,) = sparse(np.array([1, 10, 31], np.int64)).graph.sparse_initializer
    constant = helper.make_node("Constant", [], ["w"], sparse_value=tensor)
    proto = models.model([constant, node("MatMul", "x w", "y")], {"x": ["n", 4]}, {"y": ["n", 8]})
    x = random(2, 4)
    assert np.allclose(OnnxGraph.from_proto(proto).run([x]).outputs[0], models.run(proto, x=x)[0], atol=1e-5)


def test_a_table_of_strings_stays() -> None:
    nodes = [node("MatMul", "x w", "s"), node("ArgMax", "s", "best", axis=1, keepdims=0), node("Gather", "names best", "y")]
    proto = models.model(nodes, {"x": [2, 32]}, {"y": [2]}, {"w": random(32, 3)})
    proto.graph.initializer.add(name="names", data_type=TensorProto.STRING, dims=[3], string_data=[b"a", b"b", b"c"])
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    graph, x = OnnxGraph.from_proto(proto), random(2, 32)
    assert list(graph.run([x]).outputs[0]) == list(models.run(graph.proto(), x=x)[0]) == list(models.run(proto, x=x)[0])


def test_onnxruntimes_own_norm_in_the_standards_domain() -> None:
    nodes = [node("SimplifiedLayerNormalization", "x g", "h", axis=-1), node("LayerNormalization", "h g", "i"), node("MatMul", "i w", "y")]
    weights = {"g": random(32), "w": random(32, 16)}
    proto = models.model(nodes, {"x": ["n", 32]}, {"y": ["n", 16]}, weights, opset=17)
    graph, x = OnnxGraph.from_proto(proto), random(2, 32)
    assert [made.op_type for made in graph.model.graph] == ["SimplifiedLayerNormalization", "LayerNormalization", "MatMul"]
    assert graph.model.graph[0].outputs[0].shape is not None
    assert np.allclose(models.run(graph.proto(), x=x)[0], models.run(proto, x=x)[0], atol=1e-5)
