from __future__ import annotations

from onnx import helper

from sparsecc.graph.onnx.kept import note, reason


def test_the_last_reason_stands() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    node.metadata_props.add(key="other", value="kept")
    assert reason(node) is None
    note(node, "first")
    note(node, "second")
    assert reason(node) == "second"
    assert node.metadata_props[0].value == "kept"
