"""Old opsets keep their meaning: whatever onnx's version converter touches gives what onnxruntime gives for the file as it came."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc.errors import ModelError
from sparsecc.graph.onnx import opset as onnx_opset
from sparsecc.graph.onnx.graph import OnnxGraph
from tests.graph import old_operators
from tests.graph import onnx_models as models
from tests.graph.old_operators import Case, case, floats
from tests.graph.onnx_models import node, random

CASES = list(old_operators.cases())
# Of these the files of the other tests are full, or they hold graphs, or nothing at all in the standard's runtime.
ELSEWHERE = {"Constant", "If", "Loop", "Scan", "OptionalGetElement", "OptionalHasElement"}


def model(cases: Sequence[Case], opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """All of them side by side, and what goes in."""
    nodes, feeds, stored = [], {}, {}
    for number, one in enumerate(cases):
        names = ["" if x is None else f"{one.op}_{number}_in{place}" for place, x in enumerate(one.inputs)]
        outputs = [f"{one.op}_{number}_out{place}" for place in range(one.outputs)]
        nodes.append(helper.make_node(one.op, names, outputs, name=f"{one.op}_{number}", **one.attributes))
        for place, (name, x) in enumerate(zip(names, one.inputs, strict=True)):
            (stored if place in one.stored else feeds).update({name: x} if name else {})
    graph = helper.make_graph(
        nodes,
        "old",
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for name, x in feeds.items()],
        [helper.make_empty_tensor_value_info(name) for made in nodes for name in made.output],
        [numpy_helper.from_array(x, name) for name, x in stored.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    for output, x in zip(proto.graph.output, models.run(proto, **feeds), strict=True):
        output.CopyFrom(helper.make_tensor_value_info(output.name, helper.np_dtype_to_tensor_dtype(x.dtype), None))
    return proto, feeds


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 15, 17])  # the last ones before something changed
def test_every_operator_means_what_it_meant(opset: int) -> None:
    proto, feeds = model([one for one in CASES if one.since <= opset <= one.until], opset)
    expected = models.run(proto, **feeds)
    made = OnnxGraph.from_proto(proto).proto()
    assert next(imported.version for imported in made.opset_import if imported.domain == "") == onnx_opset.OPSET
    for output, ours, theirs in zip(proto.graph.output, models.run(made, **feeds), expected, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), output.name
        assert np.allclose(ours.astype(np.float64), theirs.astype(np.float64), atol=1e-5, equal_nan=True), output.name


def test_the_table_has_all_that_the_converter_touches() -> None:
    versions: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= onnx_opset.OPSET:
            versions.setdefault(schema.name, set()).add(schema.since_version)
    touched = {op for op, since in versions.items() if len(since) > 1 and max(since) > old_operators.OLDEST}
    assert touched - {one.op for one in CASES} == ELSEWHERE


@pytest.mark.parametrize(
    "one",
    [
        case("Hardmax", floats(2, 3, 4), axis=1, until=12),
        case("Resize", floats(1, 3, 6, 6), np.array([1, 1, 0.7, 2], np.float32), mode="nearest", since=10, until=10),
        case("Upsample", floats(1, 3, 6, 6), np.array([1, 1, 2, 2], np.float32), mode="linear", since=9, until=9),
    ],
    ids=lambda one: one.op,
)
def test_inside_a_branch(one: Case) -> None:
    inner, feeds = model([one], one.until)
    branch = helper.make_graph(inner.graph.node, "branch", [], [helper.make_tensor_value_info(inner.graph.output[0].name, 1, None)])
    outer = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([outer], "old", [condition, *inner.graph.input], [result], inner.graph.initializer)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", one.until)], ir_version=7)
    feeds["c"] = np.array(True)
    (ours,), (theirs,) = models.run(OnnxGraph.from_proto(proto).proto(), **feeds), models.run(proto, **feeds)
    assert np.allclose(ours, theirs, atol=1e-5)


def test_a_size_that_may_be_broadcast_is_not_taken_for_the_other_one() -> None:
    nodes = [node("Expand", "x shape", "e"), node("Shape", "x", "s"), node("Reshape", "e t", "y")]
    weights = {"shape": np.array([3, 4], np.int64), "t": np.array([12], np.int64)}
    proto = models.model([*nodes[::2], nodes[1]], {"x": ["a", "b"]}, {"y": ["c"]}, weights, opset=13)
    proto.graph.output.append(helper.make_tensor_value_info("s", TensorProto.INT64, [2]))
    graph = OnnxGraph.from_proto(proto)
    assert graph.inputs[0].shape == ("a", "b")
    y, s = graph.run([random(3, 1)]).outputs
    assert y.shape == (12,)
    assert s.tolist() == [3, 1]


def test_what_cannot_be_converted_is_said() -> None:
    weights = {name: random(3) for name in ("scale", "b", "mean", "var")}
    proto = models.model([node("BatchNormalization", "x scale b mean var", "y", spatial=0)], {"x": [1, 3]}, {"y": [1, 3]}, weights, opset=8)
    with pytest.raises(ModelError, match="opset 8 cannot be converted to 18"):
        OnnxGraph.from_proto(proto)


def test_outputs_need_no_shape() -> None:
    proto = models.model([node("Relu", "x", "y")], {"x": [2]}, {"y": None}, opset=12)
    onnx_opset.check(proto)
    assert OnnxGraph.from_proto(proto).run([random(2)]).outputs[0].shape == (2,)
