from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.onnx.kept import reason
from sparsecc.graph.onnx.loops import unroll
from tests.graph.onnx_models import model, node, random, run

value = helper.make_tensor_value_info


def loop(going: list[onnx.NodeProto], inputs: str = "M _ x", weights: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """v ← tanh(v·w), and of each round v·round; going: what makes `on`, whether there is another round."""
    nodes = [*going, node("MatMul", "v w", "m"), node("Tanh", "m", "next"), node("Cast", "i", "f", to=1), node("Mul", "next f", "row")]
    given = [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, None)]
    made = [value("on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, None), value("row", TensorProto.FLOAT, None)]
    names = [name.replace("_", "") for name in inputs.split()]
    one = helper.make_node("Loop", names, ["y", "rows"], name="rounds", body=helper.make_graph(nodes, "body", given, made))
    return model([one], {"x": [2, 8]}, {"y": [2, 8], "rows": [None, 2, 8]}, {"w": random(8, 8), "M": np.array(3)} | (weights or {}))


GOES_ON = [node("Identity", "c", "on")]


def test_a_known_number_of_rounds() -> None:
    proto, x = loop(GOES_ON), random(2, 8)
    expected = run(proto, x=x)
    assert unroll(proto)
    assert "Loop" not in [found.op_type for found in proto.graph.node]
    assert [found.op_type for found in proto.graph.node].count("MatMul") == 3
    for ours, oracle in zip(run(proto, x=x), expected, strict=True):
        assert np.allclose(ours, oracle, atol=1e-6)
    assert not unroll(proto), "twice is once"


def test_what_stays_says_why() -> None:
    less = [node("ReduceSum", "v", "s", keepdims=0), node("Less", "s w", "l"), node("ReduceMax", "l", "on", keepdims=0)]
    for proto, said in (
        (loop(less), "data decide when it ends"),
        (loop(GOES_ON, "x _ x"), "data decide how often it runs"),
        (loop(GOES_ON, "_ t x", {"t": np.array(True)}), "data decide how often it runs"),
        (loop(GOES_ON, "M t x", {"t": np.array(False)}), "data decide whether it begins"),
        (loop(GOES_ON, weights={"M": np.array(0)}), "it runs not once"),
        (loop(GOES_ON, weights={"M": np.array(2000)}), "written out it has 2000 times 5 operators, more than 4096"),
    ):
        assert not unroll(proto)
        assert reason(proto.graph.node[0]) == said


def test_bodies_read_values_from_outside_at_any_depth() -> None:
    """A branch inside the body reads what the body computes."""
    branches = [
        helper.make_graph([node(op_type, "m", "z")], op_type, [], [value("z", TensorProto.FLOAT, None)]) for op_type in ("Tanh", "Sigmoid")
    ]
    proto = loop(GOES_ON)
    body = proto.graph.node[0].attribute[0].g
    [old] = [found for found in body.node if found.op_type == "Tanh"]
    old.CopyFrom(helper.make_node("If", ["c"], ["next"], then_branch=branches[0], else_branch=branches[1]))
    x = random(2, 8)
    expected = run(proto, x=x)
    assert unroll(proto)
    assert all(np.allclose(ours, oracle, atol=1e-6) for ours, oracle in zip(run(proto, x=x), expected, strict=True))


@pytest.mark.parametrize("standard", [False, True])
def test_only_the_compiler_wants_them_written_out(standard: bool) -> None:
    graph = OnnxGraph.from_proto(loop(GOES_ON), standard=standard)
    assert ("Loop" in [found.op_type for found in graph.model.graph]) is not standard


def test_names_inside_that_are_like_those_that_are_made() -> None:
    """A body's own `condition`, `iteration` and `axes`, and a value outside that is called as a copy would be."""
    proto = loop(GOES_ON)
    body = proto.graph.node[0].attribute[0].g
    for found in body.node:
        for field in (found.input, found.output):
            field[:] = [{"m": "condition", "f": "iteration"}.get(name, name) for name in field]
    body.initializer.append(numpy_helper.from_array(np.array(2, np.float32), "axes"))
    body.node.append(node("Mul", "row axes", "twice"))
    body.output[2].name = "twice"
    proto.graph.node[0].input[2] = "rounds/0/next"
    proto.graph.node.insert(0, node("Neg", "x", "rounds/0/next"))
    x = random(2, 8)
    expected = run(proto, x=x)
    assert unroll(proto)
    assert all(np.allclose(ours, oracle, atol=1e-6) for ours, oracle in zip(run(proto, x=x), expected, strict=True))


def test_results_that_nobody_reads() -> None:
    """onnxruntime ends by a signal on the loop itself."""
    proto, x = loop(GOES_ON), random(2, 8)
    _, expected = run(proto, x=x)
    proto.graph.node[0].output[:] = ["", "rows"]
    del proto.graph.output[0]
    assert unroll(proto)
    assert np.allclose(run(proto, x=x)[0], expected, atol=1e-6)
