"""Sparse nodes: made, read back, refused when they are not ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper

from sparsecc.calibration.context import Context
from sparsecc.errors import ModelError, UserError
from sparsecc.formats import storing
from sparsecc.graph.onnx import sparse
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.onnx.nodes import copied
from sparsecc.graph.sites import Linear
from sparsecc.ops.sparse_linear.torch import SparseLinear
from sparsecc.ops.structured_linear.torch import StructuredLinear
from sparsecc.passes.quantize import Quantize
from sparsecc.patterns import parse
from sparsecc.structures.monarch import Monarch
from tests.graph import onnx_models as models
from tests.graph.onnx_models import random


def packed_mlp() -> onnx.ModelProto:
    graph = OnnxGraph.from_proto(models.mlp())
    format = storing(parse("4x1"))
    for site in graph.sites(Linear):
        graph.replace(site, SparseLinear(format.pack(site.weight, format.pattern.project(site.weight.abs(), 0.5)), site.bias))
    return graph.proto()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int64, np.uint16, np.bool_, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5), (0, 4), (), (7,)])
def test_tensors_of_every_type_share_memory(dtype: type, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape), dtype)
    array.flags.writeable = False
    tensor = sparse.tensor_of(ir.Value(name="t", const_value=ir.Tensor(array)))
    assert tensor.shape == shape
    assert np.array_equal(tensor.double().numpy(), array.astype(np.float64))
    value = sparse.initializer(tensor, "t").const_value
    assert value is not None
    back = value.numpy()
    assert back.dtype == dtype
    if array.size:
        assert tensor.data_ptr() == array.ctypes.data


def test_numbers_of_four_bits_are_refused() -> None:
    numbers = cast(np.ndarray, np.zeros(8, ml_dtypes.int4))
    value = ir.Value(name="b", const_value=ir.Tensor(numbers, dtype=ir.DataType.INT4))
    with pytest.raises(ModelError, match="tensor 'b' is int4, in which no layer computes"):
        sparse.tensor_of(value)


def test_functions_are_those_that_are_called_and_the_models_own_opset() -> None:
    proto = packed_mlp()
    assert [function.name for function in proto.functions] == ["SparseLinear_block_4x1"]
    assert proto.functions[0].opset_import[0].version == 18
    assert {opset.domain: opset.version for opset in proto.opset_import} == {"": 18, "ai.sparsecc": 2}
    assert proto.ir_version >= 8


def test_functions_of_an_older_file_are_replaced() -> None:
    proto = packed_mlp()
    del proto.functions[0].node[:]
    proto.functions[0].node.append(helper.make_node("Identity", ["x"], ["y"]))
    again = OnnxGraph.from_proto(proto)
    x = random(2, 32)
    assert np.array_equal(again.run([x]).outputs[0].numpy(), models.run(packed_mlp(), x=x)[0])


@pytest.mark.parametrize(("activations", "rounds"), [("per_token", True), ("calibrated", False)])
def test_layers_that_rounded_otherwise_in_an_older_file_are_noted(activations: Any, rounds: bool) -> None:
    calibration = Context(calibration=[(torch.from_numpy(random(2, 32)),)])
    graph = Quantize(activations=activations, min_weights=0).apply(OnnxGraph.from_proto(models.mlp()), calibration).graph
    assert isinstance(graph, OnnxGraph)
    proto = graph.proto()
    assert not OnnxGraph.from_proto(copied(proto)).notes
    next(opset for opset in proto.opset_import if opset.domain == "ai.sparsecc").version = 1
    notes = OnnxGraph.from_proto(copied(proto)).notes
    assert len(notes) == rounds
    assert all("int8 layers rounded their inputs symmetrically" in note for note in notes)


def attribute(call: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    return next(attribute for attribute in call.attribute if attribute.name == name)


BREAKS: dict[str, tuple[Callable[[onnx.NodeProto], Any], str]] = {
    "an impossible format": (
        lambda call: setattr(attribute(call, "format"), "s", b"nm:9:3"),
        "no SparseLinear_block_4x1 that this version",
    ),
    "another format": (lambda call: setattr(attribute(call, "format"), "s", b"nm:2:4"), "its weight is said to be nm:2:4, it has 5 inputs"),
    "no rows": (lambda call: call.attribute.remove(attribute(call, "rows")), "this version of sparsecc writes .'rows'."),
    "too few rows": (lambda call: setattr(attribute(call, "rows"), "i", 8), "its packed weight is damaged"),
    "an input missing": (lambda call: call.input.pop(), "it has 4 inputs"),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_nodes_that_are_not_ours(kind: str) -> None:
    proto, (break_it, message) = packed_mlp(), BREAKS[kind]
    break_it(next(call for call in proto.graph.node if call.domain == "ai.sparsecc"))
    with pytest.raises(ModelError, match=f"layer 'fc1': .*{message}") as caught:
        [site.weight for site in OnnxGraph.from_proto(proto).sites(Linear)]
    assert "\n" not in str(caught.value)


STRUCTURED_BREAKS: dict[str, tuple[Callable[[onnx.NodeProto], Any], str]] = {
    "an unknown structure": (lambda call: setattr(attribute(call, "structure"), "s", b"monarch:0x0:0"), "is not one that sparsecc writes"),
    "another rank": (lambda call: setattr(attribute(call, "structure"), "s", b"monarch:2x4:3"), "its weight is said to be monarch:2x4:3"),
    "no cols": (lambda call: call.attribute.remove(attribute(call, "cols")), "this version of sparsecc writes .'cols'."),
    "too few rows": (lambda call: setattr(attribute(call, "rows"), "i", 8), "its weight is said to be monarch:2x4:2, it has 4 inputs"),
    "an input missing": (lambda call: call.input.pop(), "it has 3 inputs"),
    "factors in another order": (lambda call: call.input.insert(1, call.input.pop(2)), "its factors are not those of a 64×32 matrix"),
}


@pytest.mark.parametrize("kind", STRUCTURED_BREAKS)
def test_structured_nodes_that_are_not_ours(kind: str) -> None:
    graph = OnnxGraph.from_proto(models.mlp())
    site = graph.sites(Linear)[0]
    graph.replace(site, StructuredLinear(Monarch(2, 4, 2).project(site.weight), site.bias))
    proto, (break_it, message) = graph.proto(), STRUCTURED_BREAKS[kind]
    break_it(next(call for call in proto.graph.node if call.domain == "ai.sparsecc"))
    with pytest.raises(ModelError, match=f"layer 'fc1': .*{message}"):
        [site.weight for site in OnnxGraph.from_proto(proto).sites(Linear)]


def test_a_model_too_old_for_the_operators() -> None:
    graph = OnnxGraph.from_proto(models.mlp())
    graph.model.graph.opset_imports[""] = 15
    site = graph.sites(Linear)[0]
    format = storing(parse("2:4"))
    op = SparseLinear(format.pack(site.weight, format.pattern.project(site.weight.abs(), 0.5)), site.bias)
    with pytest.raises(UserError, match="'fc1': its operator needs opset 16, the model has 15"):
        graph.replace(site, op)
    assert site.packed is None
    assert torch.equal(graph.sites(Linear)[0].weight, site.weight)
