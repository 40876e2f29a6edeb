from __future__ import annotations

import numpy as np
import onnx
import pytest

from sparsecc.codegen.importers.onnx.blame import blamed
from sparsecc.errors import ModelError
from tests.graph.onnx_models import model, node, random


def chain() -> onnx.ModelProto:
    nodes = [node("Relu", "x", "a"), node("Relu", "a", "b"), node("MatMul", "b w", "c"), node("Tanh", "c", "y")]
    nodes[3].name = "last"
    return model(nodes, {"x": [2, 4]}, {"y": [2, 3]}, {"w": random(4, 3)})


@pytest.mark.parametrize(("bad", "said"), [("Tanh", "Tanh (at 'last')"), ("MatMul", "MatMul (at 'c')"), ("Det", None)])
def test_the_first_that_fails_alone(bad: str, said: str | None) -> None:
    seen = []

    def compile(alone: onnx.ModelProto) -> None:
        onnx.checker.check_model(alone, full_check=True)
        seen.append(alone.graph.node[0].op_type)
        if seen[-1] == bad:
            raise ModelError("in other words")

    assert blamed(chain(), compile) == said
    assert seen == ["Relu", "MatMul", "Tanh"][: len(seen)], "operators that look alike are tried once"


def test_looking_does_not_hide_what_was_found() -> None:
    """Any other error, of compiling one operator or of inferring sizes, and operators that read values from outside."""

    def compile(alone: onnx.ModelProto) -> None:
        raise RuntimeError("something else")

    assert blamed(chain(), compile) is None
    damaged = chain()
    damaged.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.STRING
    assert blamed(damaged, lambda alone: None) is None
    inner = onnx.helper.make_graph([node("Add", "a b", "z")], "inner", [], [onnx.helper.make_empty_tensor_value_info("z")])
    choice = chain()
    choice.graph.node[3].CopyFrom(onnx.helper.make_node("If", ["t"], ["y"], then_branch=inner, else_branch=inner))
    choice.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "t"))
    seen: list[str] = []
    assert blamed(choice, lambda alone: seen.append(alone.graph.node[0].op_type)) is None
    assert seen == ["Relu", "MatMul"]


def test_it_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsecc.codegen.importers.onnx.blame.SECONDS", -1.0)
    assert blamed(chain(), lambda alone: pytest.fail("nothing is tried")) is None
