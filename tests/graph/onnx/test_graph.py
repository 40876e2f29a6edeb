"""The ONNX host as passes see it: sites by name, new weights, packed layers, calibration, copies, files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from sparsecc.errors import InputError, ModelError
from sparsecc.formats import storing
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Attention, Conv2d, Linear, Mlp, WeightSite
from sparsecc.ops.sparse_conv2d.torch import SparseConv2d
from sparsecc.ops.sparse_linear.torch import SparseLinear
from sparsecc.ops.structured_linear.torch import StructuredLinear
from sparsecc.patterns import parse
from sparsecc.structures.low_rank import LowRank
from sparsecc.structures.monarch import Monarch
from tests.graph import onnx_models as models
from tests.graph.onnx_models import node, random
from tests.tolerance import assert_close

BERT_INPUTS = {"input_ids": np.arange(24).reshape(2, 12), "attention_mask": np.ones((2, 12), np.int64)}


def pruned(graph: OnnxGraph, pattern: str = "4x1", sparsity: float = 0.5) -> OnnxGraph:
    """A copy with zeros in every layer that the pattern fits."""
    result, format = graph.copy(), storing(parse(pattern))
    for site in result.sites(WeightSite):
        if format.check(site.rows, site.cols) is None and getattr(site, "groups", 1) == 1:
            keep = format.pattern.project(site.matrix.abs(), sparsity)
            result.set_weight(site, site.from_matrix(site.matrix * keep))
    return result


def pack(graph: OnnxGraph, pattern: str = "4x1") -> OnnxGraph:
    """A copy in which every layer that the pattern holds is packed."""
    result, format = graph.copy(), storing(parse(pattern))
    for site in result.sites(WeightSite):
        keep = site.matrix != 0
        if format.check(site.rows, site.cols) is None and format.pattern.holds(keep) is None and not keep.all():
            packed = format.pack(site.matrix, keep)
            if isinstance(site, Conv2d):
                kernel = (site.weight.shape[2], site.weight.shape[3])
                op = SparseConv2d(packed, site.bias, kernel, site.stride, site.padding, site.dilation)
            else:
                op = SparseLinear(packed, site.bias)
            result.replace(site, op)
    return result


def test_bert_has_the_layers_of_its_modules() -> None:
    proto, module = models.bert()
    graph = OnnxGraph.from_proto(proto)
    linears = {name: child for name, child in module.named_modules() if isinstance(child, torch.nn.Linear)}
    assert [site.name for site in graph.sites(Linear)] == list(linears)
    for site in graph.sites(Linear):
        assert torch.equal(site.weight, linears[site.name].weight)
        assert site.bias is not None and torch.equal(site.bias, linears[site.name].bias)
    assert [site.activation for site in graph.sites(Linear)][4] == "gelu"
    assert [site.name for site in graph.sites(Attention)] == [f"encoder.layer.{k}.attention.self" for k in (0, 1)]
    assert next((mlp.name, mlp.first.name) for mlp in graph.sites(Mlp)) == ("encoder.layer.0.mlp", "encoder.layer.0.intermediate.dense")


def test_cnn_has_the_layers_of_its_modules_with_the_batch_norm_folded() -> None:
    proto, module = models.cnn()
    graph = OnnxGraph.from_proto(proto)
    found = {site.name: site for site in graph.sites(WeightSite)}
    assert list(found) == ["stem", "depthwise", "wide", "pointwise", "head"]
    assert found["stem"].bias is not None
    assert (found["stem"].activation, found["depthwise"].activation, found["wide"].activation) == ("relu", "hardswish", "silu")
    wide, depthwise = found["wide"], found["depthwise"]
    assert isinstance(wide, Conv2d) and isinstance(depthwise, Conv2d)
    assert (wide.padding, wide.dilation, wide.groups, depthwise.groups) == ((2, 2, 2, 2), (2, 2), 1, 16)
    x = torch.randn(3, 3, 16, 16)
    assert_close(graph.run([x]).outputs[0], module(x).detach())


def test_specs_name_what_may_change() -> None:
    graph = OnnxGraph.from_proto(models.bert()[0])
    assert [(spec.name, spec.shape, spec.dtype) for spec in graph.inputs] == [
        ("input_ids", ("batch", "tokens"), "int64"),
        ("attention_mask", ("batch", "tokens"), "int64"),
    ]
    assert graph.outputs[0].shape == ("batch", "tokens", 32)


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "1x4", "2:4"])
def test_packed_equals_masked_and_every_name_stays(pattern: str) -> None:
    masked = pruned(OnnxGraph.from_proto(models.bert()[0]), pattern)
    packed = pack(masked, pattern)
    sites = packed.sites(WeightSite)
    assert all(site.packed is not None for site in sites)
    for before, after in zip(masked.sites(WeightSite), sites, strict=True):
        assert (before.name, before.activation) == (after.name, after.activation)
        assert torch.equal(before.weight, after.weight)
        assert before.bias is not None and after.bias is not None and torch.equal(before.bias, after.bias)
    for ours, oracle in zip(packed.run(BERT_INPUTS).outputs, masked.run(BERT_INPUTS).outputs, strict=True):
        assert_close(ours, oracle)


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "2:4"])
def test_packed_convolutions_equal_masked(pattern: str) -> None:
    masked = pruned(OnnxGraph.from_proto(models.cnn()[0]), pattern)
    packed = pack(masked, pattern)
    assert sum(site.packed is not None for site in packed.sites(Conv2d)) >= 2
    x = random(2, 3, 16, 16)
    assert_close(packed.run([x]).outputs[0], masked.run([x]).outputs[0])
    again = OnnxGraph.from_proto(packed.proto())
    for before, after in zip(masked.sites(Conv2d), again.sites(Conv2d), strict=True):
        assert (before.name, before.stride, before.padding, before.dilation) == (after.name, after.stride, after.padding, after.dilation)
        assert torch.equal(before.weight, after.weight)


def test_a_packed_file_is_valid_runs_anywhere_and_reads_back_packed(tmp_path) -> None:
    packed = pack(pruned(OnnxGraph.from_proto(models.bert()[0]), "2:4"), "2:4")
    packed.save(tmp_path / "packed.onnx")
    proto = onnx.load(tmp_path / "packed.onnx")
    onnx.checker.check_model(proto, full_check=True)
    oracle = packed.run(BERT_INPUTS).outputs
    assert np.array_equal(models.run(proto, **BERT_INPUTS)[0], oracle[0].numpy())
    again = OnnxGraph.from_file(tmp_path / "packed.onnx")
    assert [site.name for site in again.sites()] == [site.name for site in packed.sites()]
    for before, after in zip(packed.sites(WeightSite), again.sites(WeightSite), strict=True):
        assert before.packed is not None and after.packed is not None
        assert after.packed.format == before.packed.format
        assert all(torch.equal(after.packed.tensors[name], tensor) for name, tensor in before.packed.tensors.items())
    assert torch.equal(again.run(BERT_INPUTS).outputs[0], oracle[0])


@pytest.mark.parametrize(("pattern", "sparsity", "share"), [("2:4", 0.5, 0.6), ("unstructured", 0.9, 0.25), ("16x1", 0.75, 0.3)])
def test_a_packed_file_is_as_small_as_its_format(pattern: str, sparsity: float, share: float, tmp_path) -> None:
    nodes = [node("MatMul", "x w", "y")]
    graph = OnnxGraph.from_proto(models.model(nodes, {"x": ["n", 512]}, {"y": ["n", 768]}, {"w": random(512, 768)}))
    pack(pruned(graph, pattern, sparsity), pattern).save(tmp_path / "packed.onnx")
    assert (tmp_path / "packed.onnx").stat().st_size <= share * 512 * 768 * 4


def test_fixed_keeps_names_packed_layers_and_results() -> None:
    packed = pack(pruned(OnnxGraph.from_proto(models.bert()[0])))
    fixed = packed.fixed({"input_ids": (2, 12), "attention_mask": (2, 12)})
    assert [spec.shape for spec in fixed.inputs] == [(2, 12), (2, 12)]
    assert fixed.outputs[0].shape == (2, 12, 32)
    assert not any(op.op_type in ("Shape", "Range") for op in fixed.model.graph)
    assert [site.name for site in fixed.sites()] == [site.name for site in packed.sites()]
    assert all(site.packed is not None for site in fixed.sites(WeightSite))
    assert_close(fixed.run(BERT_INPUTS).outputs[0], packed.run(BERT_INPUTS).outputs[0])
    assert packed.inputs[0].shape == ("batch", "tokens")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"ids": (1, 2)}, "no input 'ids'; there are: input_ids"),
        ({"input_idz": (1, 2)}, "did you mean 'input_ids'"),
        ({"input_ids": (1, 2, 3)}, "takes .batch, tokens., not .1, 2, 3."),
        ({"input_ids": (1, -1)}, "not .1, -1."),
    ],
)
def test_wrong_input_shapes(shapes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        OnnxGraph.from_proto(models.bert()[0], shapes)


def test_set_weight_changes_the_copy_only() -> None:
    graph = OnnxGraph.from_proto(models.mlp())
    copy = graph.copy()
    for name in ("fc1", "head"):  # stored [in, out] and [out, in]
        (site,) = copy.sites(Linear, (name,))
        new = torch.randn(site.rows, site.cols)
        copy.set_weight(site, new)
        assert torch.equal(copy.sites(Linear, (name,))[0].weight, new)
        assert torch.equal(graph.sites(Linear, (name,))[0].weight, site.weight)
    x = torch.randn(4, 32)
    fc1, fc2, head = copy.sites(Linear)
    assert fc1.bias is not None and fc2.bias is not None and head.bias is not None
    oracle = head.weight @ (fc2.weight @ torch.relu(fc1.weight @ x.T + fc1.bias[:, None]) + fc2.bias[:, None]) + head.bias[:, None]
    assert_close(copy.run([x]).outputs[0], oracle.T.contiguous())


def test_a_structured_layer_is_a_site_that_keeps_its_name() -> None:
    graph = OnnxGraph.from_proto(models.mlp())
    site = graph.sites(Linear)[0]
    graph.replace(site, StructuredLinear(Monarch(2, 4, 2).project(site.weight), site.bias))
    after = graph.sites(Linear)[0]
    assert (after.name, after.activation, after.shape, after.weight_name) == ("fc1", "relu", (64, 32), "fc1.structured.right")
    assert after.form is not None
    assert after.form.storage == Monarch(2, 4, 2)
    assert "fc1.weight" not in graph.model.graph.initializers


def test_fixed_keeps_structured_layers() -> None:
    graph = OnnxGraph.from_proto(models.mlp())
    for site in graph.sites(Linear):
        graph.replace(site, StructuredLinear(LowRank(4).project(site.weight), site.bias))
    fixed = graph.fixed({"x": (3, 32)})
    assert [site.form and site.form.storage for site in fixed.sites(Linear)] == [LowRank(4)] * 3
    assert_close(fixed.run([random(3, 32)]).outputs[0], graph.run([random(3, 32)]).outputs[0])


def test_taps_are_what_enters_a_site() -> None:
    proto, module = models.bert()
    graph = OnnxGraph.from_proto(proto)
    names = ["encoder.layer.0.attention.self.query", "encoder.layer.0.attention.self", "encoder.layer.1.mlp"]
    run = graph.run(BERT_INPUTS, names)
    seen: dict[str, torch.Tensor] = {}

    def noting(name: str) -> Callable[..., None]:
        return lambda _, x, y: seen.update({name: x[0], f"{name}.out": y})

    for name in ("encoder.layer.0.attention.self.query", "encoder.layer.0.attention.self.key", "encoder.layer.1.intermediate.dense"):
        module.get_submodule(name).register_forward_hook(noting(name))
    module(**{name: torch.from_numpy(array) for name, array in BERT_INPUTS.items()})
    assert_close(run.taps[names[0]][0], seen[names[0]].detach())
    assert_close(run.taps[names[2]][0], seen["encoder.layer.1.intermediate.dense"].detach())
    q, k, v = run.taps[names[1]]
    heads = seen["encoder.layer.0.attention.self.key.out"].detach().reshape(2, 12, 4, 8).transpose(1, 2)
    assert q.shape == k.shape == v.shape == (2, 4, 12, 8)
    assert_close(k, heads)


def test_site_graph_says_who_feeds_whom() -> None:
    edges = list(OnnxGraph.from_proto(models.mlp()).site_graph().edges)
    assert edges == [("fc1", "fc2"), ("fc2", "head")]
    graph = OnnxGraph.from_proto(models.bert()[0]).site_graph()
    layer = "encoder.layer.0.attention"
    assert [a for a, _ in graph.in_edges(f"{layer}.self")] == [f"{layer}.self.{name}" for name in ("query", "key", "value")]
    assert list(graph.successors(f"{layer}.self")) == [f"{layer}.output.dense"]


def test_the_proto_that_was_given_is_left_alone() -> None:
    proto = models.mlp()
    before = proto.SerializeToString(deterministic=True)
    pack(pruned(OnnxGraph.from_proto(proto)))
    assert proto.SerializeToString(deterministic=True) == before


def test_the_same_model_twice_gives_the_same_file(tmp_path) -> None:
    for name in ("a", "b"):
        pack(pruned(OnnxGraph.from_proto(models.bert()[0]))).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_model_that_onnxruntime_cannot_run_says_so() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("NoSuchOp", ["h"], ["y"], domain="com.microsoft")]
    proto = models.model(nodes, {"x": ["n", 32]}, {"y": ["n", 32]}, {"w": random(32, 32)})
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    graph = OnnxGraph.from_proto(proto)
    with pytest.raises(ModelError, match=r"onnxruntime cannot run this model.*NoSuchOp"):
        graph.run([random(1, 32)])
