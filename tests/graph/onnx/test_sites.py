"""Which operators are layers, how their weights and padding are read, and what is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Conv1d, Conv2d, Linear, Mlp, Site, WeightSite
from sparsecc.passes.pack import Pack
from tests.graph import onnx_models as models
from tests.graph.onnx_models import node, random
from tests.tolerance import assert_close

W, B = random(32, 16), random(16)
LINEAR = {
    "MatMul": [node("MatMul", "x w", "y")],
    "MatMul and Add": [node("MatMul", "x w", "h"), node("Add", "h b", "y")],
    "Add and MatMul": [node("MatMul", "x w", "h"), node("Add", "b h", "y")],
    "bias of a higher rank": [node("MatMul", "x w", "h"), node("Add", "h b1", "y")],
    "MatMul with a Transpose": [node("Transpose", "wt", "t"), node("MatMul", "x t", "y")],
    "Gemm": [node("Gemm", "x w b", "y")],
    "Gemm without bias": [node("Gemm", "x w", "y")],
    "Gemm transposed": [node("Gemm", "x wt b", "y", transB=1)],
    "Gemm with factors": [node("Gemm", "x w b", "y", alpha=0.5, beta=2.0)],
    "Gemm with a Transpose": [node("Transpose", "wt", "t"), node("Gemm", "x t b", "y")],
}


@pytest.mark.parametrize("form", LINEAR)
def test_linear(form: str) -> None:
    weights = {"w": W, "wt": np.ascontiguousarray(W.T), "b": B, "b1": B.reshape(1, 16)}
    used = {name for op in LINEAR[form] for name in op.input}
    proto = models.model(LINEAR[form], {"x": ["n", 32]}, {"y": ["n", 16]}, {name: weights[name] for name in weights if name in used})
    graph = OnnxGraph.from_proto(proto)
    (site,) = graph.sites(Linear)
    assert (site.rows, site.cols, site.shared) == (16, 32, False)
    assert site.weight_name in {value.name for value in graph.model.graph.initializers.values()}
    x = random(4, 32)
    assert_close(torch.nn.functional.linear(torch.from_numpy(x), site.weight, site.bias), torch.from_numpy(models.run(proto, x=x)[0]))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("size", "attributes"),
    [
        ([9, 11], {"pads": [1, 2, 0, 1], "strides": [2, 1], "dilations": [1, 2]}),
        ([9, 11], {"auto_pad": "VALID"}),
        (["h", "w"], {"auto_pad": "SAME_UPPER"}),
        ([9, 11], {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
        ([9, 12], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        ([9, 11], {}),
    ],
)
def test_convolution(groups: int, size: list, attributes: dict) -> None:
    weights = {"w": random(6, 4 // groups, 3, 2), "b": random(6)}
    proto = models.model([node("Conv", "x w b", "y", group=groups, **attributes)], {"x": [1, 4, *size]}, {"y": [1, 6, None, None]}, weights)
    (site,) = OnnxGraph.from_proto(proto).sites(Conv2d)
    assert (site.rows, site.cols, site.groups) == (6, 3 * 2 * 4 // groups, groups)
    height, width = (9 if isinstance(size[0], str) else size[0], 11 if isinstance(size[1], str) else size[1])
    x = random(1, 4, height, width)
    top, left, bottom, right = site.padding
    padded = torch.nn.functional.pad(torch.from_numpy(x), (left, right, top, bottom))
    ours = torch.nn.functional.conv2d(padded, site.weight, site.bias, site.stride, 0, site.dilation, site.groups)
    assert_close(ours, torch.from_numpy(models.run(proto, x=x)[0]))


def test_padding_that_depends_on_an_unknown_size_is_no_site() -> None:
    conv = node("Conv", "x w", "y", auto_pad="SAME_UPPER", strides=[2, 2])
    proto = models.model([conv], {"x": [1, 4, "h", "w"]}, {"y": [1, 6, None, None]}, {"w": random(6, 4, 3, 3)})
    graph = OnnxGraph.from_proto(proto)
    assert graph.sites() == []
    assert len(graph.fixed({"x": (1, 4, 8, 8)}).sites(Conv2d)) == 1


NO_LINEAR = {
    "weight on the left": [node("MatMul", "w x", "y")],
    "batched weight": [node("MatMul", "x cube", "y")],
    "computed weight": [node("MatMul", "x z", "y")],
    "integers": [node("Cast", "x", "i", to=7), node("MatMul", "i whole", "y")],
}


@pytest.mark.parametrize("form", NO_LINEAR)
def test_what_is_no_linear(form: str) -> None:
    weights = {"w": random(16, 16), "cube": random(3, 16, 16), "whole": np.ones((16, 16), np.int64)}
    used = {name for op in NO_LINEAR[form] for name in op.input}
    inputs = {name: [16, 16] for name in ("x", "z") if name in used}
    proto = models.model(NO_LINEAR[form], inputs, {"y": None}, {name: weights[name] for name in weights if name in used})
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64 if form == "integers" else TensorProto.FLOAT
    assert OnnxGraph.from_proto(proto).sites(WeightSite) == []


def test_a_bias_that_would_add_a_dimension_stays_outside() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b", "y")]
    proto = models.model(nodes, {"x": ["n", 32]}, {"y": [1, "n", 16]}, {"w": W, "b": B.reshape(1, 1, 16)})
    (site,) = OnnxGraph.from_proto(proto).sites(Linear)
    assert site.bias is None


def test_a_residual_is_no_bias() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Add", "h r", "y")]
    proto = models.model(nodes, {"x": ["n", 32], "r": ["n", 16]}, {"y": ["n", 16]}, {"w": W})
    (site,) = OnnxGraph.from_proto(proto).sites(Linear)
    assert site.bias is None


def test_half_precision() -> None:
    proto = models.model([node("MatMul", "x w", "y")], {"x": ["n", 32]}, {"y": ["n", 16]}, {"w": W.astype(np.float16)})
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    (site,) = OnnxGraph.from_proto(proto).sites(Linear)
    assert site.weight.dtype == torch.float16
    assert np.array_equal(site.weight.numpy().T, W.astype(np.float16))


def test_order_and_mlp() -> None:
    graph = OnnxGraph.from_proto(models.mlp())
    assert [(site.kind, site.name) for site in graph.sites(Site)] == [
        ("Linear", "fc1"),
        ("Linear", "fc2"),
        ("Mlp", "mlp"),
        ("Linear", "head"),
    ]
    (mlp,) = graph.sites(Mlp)
    assert (mlp.first.name, mlp.second.name, mlp.activation) == ("fc1", "fc2", "relu")


def test_targets() -> None:
    graph = OnnxGraph.from_proto(models.mlp())
    assert [site.name for site in graph.sites(Linear, ("re:fc.*",))] == ["fc1", "fc2"]
    assert [site.name for site in graph.sites(Linear, ("head",))] == ["head"]


def test_layers_inside_a_branch_are_left_alone_and_what_they_read_is_seen() -> None:
    result = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    branches = [helper.make_graph([node(op, "h", "z")], op, [], [result]) for op in ("Relu", "Neg")]
    nodes = [
        node("MatMul", "x w", "h"),
        helper.make_node("If", ["c"], ["i"], then_branch=branches[0], else_branch=branches[1]),
        node("MatMul", "i v", "y"),
    ]
    proto = models.model(nodes, {"x": ["n", 32], "c": []}, {"y": ["n", 16]}, {"w": W, "v": random(16, 16)})
    proto.graph.input[1].type.tensor_type.elem_type = TensorProto.BOOL
    graph = OnnxGraph.from_proto(proto)
    first, second = [site.name for site in graph.sites(Linear)]
    assert graph.sites(Linear)[0].activation is None
    assert list(graph.site_graph().edges) == [(first, second)]
    x = random(3, 32)
    for chosen in (True, False):
        assert_close(graph.run([x, np.array(chosen)]).outputs[0], torch.from_numpy(models.run(proto, x=x, c=np.array(chosen))[0]))


def test_a_convolution_along_a_line_is_one_of_images_of_height_1() -> None:
    """Packed, its lines get a height and lose it again; the file that holds it reads back as it was."""
    conv = [node("Conv", "x w b", "h", strides=[2], dilations=[2], pads=[1, 3]), node("Conv", "h v", "y", auto_pad="SAME_LOWER")]
    weights = {"w": random(8, 4, 3), "b": random(8), "v": random(6, 8, 4)}
    graph = OnnxGraph.from_proto(models.model(conv, {"x": ["n", 4, 21]}, {"y": ["n", 6, None]}, weights))
    first, second = graph.sites(Conv1d)
    assert (first.shape, first.kernel, first.stride, first.dilation, first.padding) == ((8, 4, 3), (1, 3), (1, 2), (1, 2), (0, 1, 0, 3))
    assert second.padding == (0, 2, 0, 1)
    assert torch.equal(first.from_matrix(first.matrix), first.weight)
    graph.set_weight(first, first.weight * (first.weight.abs() > 1))
    packed = Pack().apply(graph).graph
    assert isinstance(packed, OnnxGraph)
    x = random(3, 4, 21, seed=1)
    assert_close(packed.run([x]).outputs[0], graph.run([x]).outputs[0])
    again = OnnxGraph.from_proto(packed.proto())
    for before, after in zip(graph.sites(WeightSite), again.sites(WeightSite), strict=True):
        assert isinstance(before, Conv1d) and isinstance(after, Conv1d)
        assert (before.kind, before.name, before.padding) == (after.kind, after.name, after.padding)
        assert torch.equal(before.weight, after.weight)
    assert again.sites(WeightSite)[0].packed is not None
