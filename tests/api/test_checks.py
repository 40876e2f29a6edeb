"""A converted model is held against the file as it came, and loaded, before anyone relies on it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from sparsecc import api
from sparsecc.api import checks
from sparsecc.errors import ModelError
from sparsecc.graph.onnx import cleanup
from sparsecc.graph.onnx.graph import OnnxGraph
from tests.graph import onnx_models as models
from tests.graph.onnx.test_hold import narrow
from tests.graph.onnx.test_normal import listed, scaled
from tests.graph.onnx_models import node, random


def two_sizes() -> onnx.ModelProto:
    """An If whose branches take x of different sizes, as models for two sampling rates have it."""

    def branch(size: int) -> onnx.GraphProto:
        weight = numpy_helper.from_array(random(size, 8), f"w{size}")
        made = helper.make_node("MatMul", ["x", weight.name], [f"y{size}"], name=f"fc{size}")
        return helper.make_graph([made], f"b{size}", [], [helper.make_tensor_value_info(f"y{size}", TensorProto.FLOAT, None)], [weight])

    nodes = [node("Cast", "rate", "high", to=TensorProto.BOOL)]
    nodes += [helper.make_node("If", ["high"], ["h"], then_branch=branch(16), else_branch=branch(32)), node("Add", "h state", "y")]
    return models.model(nodes, {"x": ["n", "samples"], "rate": [], "state": ["m", 8]}, {"y": ["n", 8]})


def test_a_shape_that_breaks_the_other_branch_is_refused() -> None:
    with pytest.raises(ModelError, match=r"converted, the model would not load; input_shapes \{'x': .*If"):
        api.convert(two_sizes(), {"passes": []}, input_shapes={"x": (4, 16)})
    api.convert(two_sizes(), {"passes": []})


def test_a_mistake_of_the_cleaning_shows_in_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = models.model([node("MatMul", "x w", "y")], {"x": [2, 32]}, {"y": [2, 16]}, {"w": random(32, 16)})
    _, report = api.convert(proto, {"passes": []})
    assert report.check is not None and report.check.max_rel == 0

    def wrong(model: object) -> None:
        value = model.graph.initializers["w"]  # type: ignore[attr-defined]
        value.const_value = cleanup.ir.tensor(value.const_value.numpy() * 2)

    monkeypatch.setattr(cleanup, "fold_scales", wrong)
    _, report = api.convert(proto, {"passes": []})
    assert report.check is not None and report.check.max_rel == pytest.approx(1)


def test_random_outputs_are_not_compared() -> None:
    drawn = helper.make_node("RandomNormal", [], ["r"], shape=[4])
    proto = models.model([drawn, node("Add", "x r", "y")], {"x": [2, 4]}, {"y": [2, 4]})
    _, report = api.convert(proto, {"passes": []})
    assert report.check is None
    assert "note: outputs were not compared: RandomNormal (at 'r') gives other numbers each time" in report.explain()


def test_an_exact_reference_for_int8() -> None:
    """Unsigned times signed bytes saturate in onnxruntime on CPUs without VNNI; weights behind DequantizeLinear make it round inputs."""
    q, x, drawn = np.arange(-128, 128).astype(np.int8).reshape(16, 16), random(4, 16), np.random.default_rng(0)
    nodes = [node("DequantizeLinear", "q s", "w"), node("MatMul", "x w", "a"), node("MatMulInteger", "u q", "b")]
    proto = models.model(nodes, {"x": [4, 16], "u": [4, 16]}, {"a": [4, 16], "b": [4, 16]}, {"q": q, "s": np.array(0.01, np.float32)})
    proto.graph.input[1].type.tensor_type.elem_type, proto.graph.output[1].type.tensor_type.elem_type = TensorProto.UINT8, TensorProto.INT32
    u = drawn.integers(200, 256, (4, 16)).astype(np.uint8)
    graph = OnnxGraph.from_proto(proto)
    for a, b in (graph.run([x, u]).outputs, graph.as_it_came([[x, u]])[0]):
        assert np.allclose(a, x.astype(np.float64) @ (q * 0.01), atol=1e-5)
        assert np.array_equal(b, u.astype(np.int64) @ q)


def test_a_file_that_grows_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _, report = api.convert(narrow(), {"passes": []})
    assert not [note for note in report.notes if "grew" in note]
    monkeypatch.setattr(checks, "GREW", -1)
    _, report = api.convert(narrow(), {"passes": []})
    assert [note for note in report.notes if note.startswith("the file's weights grew from 0.04 to 0.04 MB")]


def multiplying(weight: np.ndarray) -> onnx.ModelProto:
    """x -> quantized -> MatMulInteger; and a layer in float32 beside it."""
    constants = {"w": weight, "s": np.float32(0.05), "z": np.uint8(128), "v": np.ones((8, 8), np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "v"], ["h"], name="float"),
            helper.make_node("QuantizeLinear", ["h", "s", "z"], ["q"]),
            helper.make_node("MatMulInteger", ["q", "w", "z"], ["y"], name="integer"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [2, 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_what_the_reader_has_to_say_stands_once_in_a_report() -> None:
    _, report = api.convert(listed(scaled(), "w"), {"passes": []})
    assert len([note for note in report.notes if note.endswith("callers can no longer set 'scale', 'w'")]) == 1


@pytest.mark.parametrize(("largest", "said"), [(127, True), (64, False)])
def test_products_that_saturate_without_vnni_are_named_on_every_cpu(largest: int, said: bool) -> None:
    _, report = api.convert(multiplying(np.full((8, 4), largest, np.int8)), {"passes": []})
    notes = [note for note in report.notes if "VNNI" in note]
    assert bool(notes) == said
    assert all("'integer'" in note for note in notes)


class OtherwiseTraced(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if torch.compiler.is_exporting() else x + 1.01


def test_a_module_is_compared_itself() -> None:
    with pytest.warns(UserWarning, match="differs from the model as it came by 0.0"):
        compiled = api.compile(OtherwiseTraced(), (torch.ones(2, 3),))
    assert compiled.report.check is not None
    assert compiled.report.check.max_rel == pytest.approx(0.01 / 2.01, rel=1e-3)


def test_a_program_is_compared_itself() -> None:
    program = torch.export.export(nn.Linear(3, 2).eval(), (torch.ones(2, 3),))
    check = api.compile(program).report.check
    assert check is not None
    assert check.max_rel < 1e-6
