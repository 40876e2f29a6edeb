"""Against onnxruntime, on both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc.graph.onnx import control
from sparsecc.graph.onnx.branches import select
from sparsecc.graph.onnx.graph import OnnxGraph
from tests.graph.onnx_models import run

FLOAT, WEIGHT = TensorProto.FLOAT, np.arange(12, dtype=np.float32).reshape(3, 4)


def body(name: str, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray] | None = None) -> onnx.GraphProto:
    """Values have the same names in all bodies."""
    tensors = [numpy_helper.from_array(array, key) for key, array in (weights or {}).items()]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info("r", FLOAT, None)], tensors)


def model(then: onnx.GraphProto, other: onnx.GraphProto) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Equal", ["rate", "wanted"], ["same"]),
        helper.make_node("If", ["same"], ["y"], name="choice", then_branch=then, else_branch=other),
    ]
    inputs = [helper.make_tensor_value_info("x", FLOAT, [2, 3]), helper.make_tensor_value_info("rate", TensorProto.INT64, [1])]
    tensors = [numpy_helper.from_array(np.array([16]), "wanted")]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", FLOAT, None)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op_type: str, inputs: str, output: str = "r", **how: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], name=f"{op_type}_{output}", **how)


PRODUCT = body("product", [node("MatMul", "x w")], {"w": WEIGHT})


def nested() -> onnx.GraphProto:
    """An If inside, whose condition sizes decide, and of whose branches one would give another size."""
    inner = node("If", "small", then_branch=body("inner", [node("Add", "h h")]), else_branch=body("flat", [node("Flatten", "x")]))
    first = [node("MatMul", "x w", "h"), node("Size", "x", "size"), node("Less", "size ten", "small")]
    return body("nested", [*first, inner], {"w": -WEIGHT, "ten": np.array(10)})


def standard(proto: onnx.ModelProto) -> OnnxGraph:
    return OnnxGraph.from_proto(proto, standard=True)


def test_both_branches_run_and_one_is_taken() -> None:
    proto, x = model(PRODUCT, nested()), np.ones((2, 3), np.float32)
    graph = standard(proto)
    assert not [n.op_type for n in graph.model.graph if n.op_type == "If"]
    assert len([n for n in graph.model.graph if n.op_type == "MatMul"]) == 2
    for rate in (16, 8):
        feeds = {"x": x, "rate": np.array([rate])}
        assert np.array_equal(graph.run(feeds).outputs[0].numpy(), run(proto, **feeds)[0])
    assert OnnxGraph.from_proto(proto).model.graph[-1].op_type == "If"  # as a file it stays what it was


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (body("flat", [node("Flatten", "x")]), "its branches may give other sizes"),
        (body("drawn", [node("RandomNormalLike", "x")]), "RandomNormalLike at 'RandomNormalLike_r'"),
        (body("indexed", [node("Gather", "x rate")]), "a branch may fail where it is not taken"),
    ],
    ids=["sizes", "random", "index"],
)
def test_one_that_stays_says_why(other: onnx.GraphProto, why: str) -> None:
    found = [n for n in standard(model(PRODUCT, other)).model.graph if n.op_type == "If"]
    assert [why in text for n in found for text in n.metadata_props.values()] == [True]


def test_a_condition_that_is_known_leaves_one_branch() -> None:
    proto = model(PRODUCT, nested())
    proto.graph.node[1].input[0] = "yes"
    proto.graph.initializer.append(numpy_helper.from_array(np.array(False), "yes"))
    assert select(proto) == ["y"]
    assert [n.name for n in proto.graph.node if n.op_type == "MatMul"] == ["choice/else/MatMul_h"]


def test_a_body_in_a_body_that_reads_a_value_from_outside() -> None:
    """Tools put the If before what only the inner body reads."""
    inner = node("If", "late", then_branch=body("a", [node("Relu", "h")]), else_branch=body("b", [node("Add", "h noise")]))
    drawn = body("drawn", [node("RandomNormalLike", "x", "noise"), inner])
    proto = model(body("zero", [node("Sub", "h h")]), drawn)
    proto.graph.node.insert(0, node("Cast", "wanted", "late", to=TensorProto.BOOL))
    proto.graph.node[0].input[0] = "rate"
    proto.graph.node.insert(0, node("MatMul", "x w", "h"))
    proto.graph.initializer.append(numpy_helper.from_array(WEIGHT, "w"))
    found = [n.op_type for n in standard(proto).copy().model.graph]
    assert found[-1] == "If"


def test_ifs_that_stay_are_tried_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each way to leave out the others."""
    tries, usual = [], control.slimmed
    monkeypatch.setattr(control, "slimmed", lambda *given: tries.append(1) or usual(*given))
    proto = model(PRODUCT, body("flat", [node("Flatten", "x")]))
    choice = proto.graph.node[1]
    for number in range(5):
        again = onnx.NodeProto.FromString(choice.SerializeToString())
        again.name, again.output[0] = f"choice{number}", f"y{number}"
        proto.graph.node.append(again)
        proto.graph.output.append(helper.make_tensor_value_info(f"y{number}", FLOAT, None))
    graph = standard(proto)
    assert sum(n.op_type == "If" for n in graph.model.graph) == 6
    assert len(tries) <= 6


def test_names_that_the_graph_has_already() -> None:
    """Values outside are called as those of a branch would be when it is written out."""
    other = body("other", [node("MatMul", "x w"), node("Neg", "r", "r2")], {"w": -WEIGHT})
    other.output[0].name = "r2"
    proto = model(PRODUCT, other)
    taken = ["choice/then/w", "choice/then/r", "choice/else/r", "choice/condition", "choice/no_axes", "y_1"]
    for name, read in zip(taken, ["x", *taken], strict=False):
        proto.graph.node.insert(len(proto.graph.node) - 1, node("Neg", read, name))
    proto.graph.output.append(helper.make_tensor_value_info(taken[-1], FLOAT, None))
    feeds = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "rate": np.array([16])}
    expected = run(proto, **feeds)
    assert select(proto) == ["y"]
    assert all(np.array_equal(ours, oracle) for ours, oracle in zip(run(proto, **feeds), expected, strict=True))


def test_choices_of_which_only_a_later_result_is_read() -> None:
    """The first is "" for both, which onnxruntime does not take itself."""
    both = body("both", [node("Neg", "x", "r0"), node("MatMul", "x w", "r")], {"w": WEIGHT})
    both.output.insert(0, helper.make_tensor_value_info("r0", FLOAT, None))
    other = onnx.GraphProto.FromString(both.SerializeToString())
    other.node[0].op_type = "Abs"
    proto = model(both, other)
    again = proto.graph.node.add()
    again.CopyFrom(proto.graph.node[1])
    again.name = "again"
    proto.graph.node[1].output[:], again.output[:] = ["y0", "y"], ["z0", "z"]
    proto.graph.output.append(helper.make_tensor_value_info("z", FLOAT, None))
    feeds = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "rate": np.array([16])}
    expected = run(proto, **feeds)
    proto.graph.node[1].output[0] = proto.graph.node[2].output[0] = ""
    assert [select(proto), select(proto), select(proto)] == [["y"], ["z"], []]
    assert all(np.array_equal(ours, oracle) for ours, oracle in zip(run(proto, **feeds), expected, strict=True))
