from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc.graph.onnx.contrib.parts import CannotError, Known, Parts


def parts(*outputs: str) -> Parts:
    node = helper.make_node("Thing", ["x", "", "w"], outputs or ["y"], name="thing", mode="up", size=3)
    known = Known({"x": [2, None]}, {"x": TensorProto.FLOAT}, {"w": numpy_helper.from_array(np.ones(3, np.int8), "w")}, 18)
    return Parts(node, known)


def test_what_a_node_says() -> None:
    found = parts()
    assert (found.get("mode", ""), found.get("size", 0), found.get("other", 7)) == ("up", 3, 7)
    assert found.inputs(4) == ["x", None, "w", None]
    assert (found.shape("x"), found.size("x", 0), found.shape("w"), found.dtype("w")) == ([2, None], 2, [3], TensorProto.INT8)


def test_what_is_not_known() -> None:
    found = parts()
    for asked, said in (
        (lambda: found.shape("z"), "the rank of 'z' is not known"),
        (lambda: found.size("x", 1), "the size of 'x' at axis 1 is not fixed"),
        (lambda: found.array("x", "table"), "its table is no constant of the model"),
        (lambda: parts("y", "z").finish(["a", None]), "its output 'z' is read"),
    ):
        with pytest.raises(CannotError, match=f"^{said}$"):
            asked()


def test_names_are_the_nodes_own_and_differ() -> None:
    found = parts()
    names = [found.op("Relu", "x"), found.op("Relu", "x"), found.number(1), found.op("MatMul", "x", "x", named=True)]
    assert len({*names}) == 4
    assert all(name.startswith("thing/") for name in names)
    assert [node.name for node in found.nodes][-1] == "thing"
    assert found.sum("a", None) == "a"
