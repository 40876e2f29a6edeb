"""Attention in the ways that exporters and people write it, each checked against torch on what its taps return."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from sparsecc.attention.base import BlockMap, Grid, required
from sparsecc.errors import ModelError, UserError
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Attention
from sparsecc.ops.block_attention.torch import BlockAttention
from tests.graph import onnx_models as models
from tests.graph.onnx_models import node, random
from tests.tolerance import assert_close

HEADS, TOKENS, DIM = 3, 10, 8
Q = {"q": [1, HEADS, TOKENS, DIM], "k": [1, HEADS, TOKENS, DIM], "v": [1, HEADS, TOKENS, DIM]}
FEEDS = {name: random(*shape, seed=seed) for seed, (name, shape) in enumerate(Q.items())}
OUT = {"y": Q["q"]}
CAUSAL = np.triu(np.full((TOKENS, TOKENS), -np.inf, np.float32), 1)
NUMBERS = {"scale": np.float32(1 / math.sqrt(DIM)), "root": np.float32(DIM**-0.25), "side": np.float32(math.sqrt(DIM)), "mask": CAUSAL}

SCORES = [node("Transpose", "k", "t", perm=[0, 1, 3, 2]), node("MatMul", "q t", "s")]
WEIGHTED = node("MatMul", "p v", "y")
FORMS = {
    "scaled after": [*SCORES, node("Mul", "s scale", "r"), node("Softmax", "r", "p", axis=-1), WEIGHTED],
    "divided": [*SCORES, node("Div", "s side", "r"), node("Softmax", "r", "p", axis=3), WEIGHTED],
    "q scaled before": [
        node("Mul", "scale q", "f"),
        node("Transpose", "k", "t", perm=[0, 1, 3, 2]),
        node("MatMul", "f t", "s"),
        node("Softmax", "s", "p", axis=-1),
        WEIGHTED,
    ],
    "both scaled by the root": [
        node("Mul", "q root", "f"),
        node("Mul", "k root", "g"),
        node("Transpose", "g", "t", perm=[0, 1, 3, 2]),
        node("MatMul", "f t", "s"),
        node("Softmax", "s", "p", axis=-1),
        WEIGHTED,
    ],
    "masked": [*SCORES, node("Mul", "s scale", "r"), node("Add", "mask r", "m"), node("Softmax", "m", "p", axis=-1), WEIGHTED],
    "NaN made zero": [
        *SCORES,
        node("Mul", "s scale", "r"),
        node("Softmax", "r", "p0", axis=-1),
        node("IsNaN", "p0", "n"),
        node("Where", "n zero p0", "p"),
        WEIGHTED,
    ],
}


def graph_of(form: str) -> OnnxGraph:
    weights = {"zero": np.float32(0), **NUMBERS}
    used = {name for op in FORMS[form] for name in op.input}
    return OnnxGraph.from_proto(models.model(FORMS[form], Q, OUT, {name: weights[name] for name in weights if name in used}))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_means_the_same(form: str) -> None:
    graph = graph_of(form)
    (site,) = graph.sites(Attention)
    assert (site.heads, site.kv_heads, site.head_dim) == (HEADS, HEADS, DIM)
    assert (site.causal, site.has_mask) == (form == "masked", False)
    assert math.isclose(site.scale, 1 / math.sqrt(DIM), rel_tol=1e-6)
    run = graph.run(FEEDS, [site.name])
    q, k, v = run.taps[site.name]
    assert all(torch.equal(tap, torch.from_numpy(FEEDS[name])) for tap, name in zip((q, k, v), "qkv", strict=True))
    oracle = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=site.causal, scale=site.scale)
    assert_close(run.outputs[0], oracle)


def test_a_mask_that_is_not_causal_is_a_mask() -> None:
    mask = np.where(np.arange(TOKENS) < 6, 0, -1e9).astype(np.float32)
    graph = OnnxGraph.from_proto(models.model(FORMS["masked"], Q, OUT, {"scale": NUMBERS["scale"], "mask": mask}))
    (site,) = graph.sites(Attention)
    assert (site.causal, site.has_mask) == (False, True)


def test_a_key_transposed_from_tokens_first_is_tapped_as_it_should_be() -> None:
    """[batch, tokens, heads, head_dim] to [batch, heads, head_dim, tokens] in one step: k itself is nowhere in the graph."""
    nodes = [node("Transpose", "k", "t", perm=[0, 2, 3, 1]), *FORMS["scaled after"][1:]]
    shapes = Q | {"k": [1, TOKENS, HEADS, DIM]}
    graph = OnnxGraph.from_proto(models.model(nodes, shapes, OUT, {"scale": NUMBERS["scale"]}))
    (site,) = graph.sites(Attention)
    k = random(1, TOKENS, HEADS, DIM)
    tapped = graph.run(FEEDS | {"k": k}, [site.name]).taps[site.name][1]
    assert torch.equal(tapped, torch.from_numpy(k).transpose(1, 2))


@pytest.mark.parametrize("causal", [0, 1])
def test_the_operator_of_opset_23(causal: int) -> None:
    proto = models.model([helper.make_node("Attention", ["q", "k", "v"], ["y"], is_causal=causal)], Q, OUT, opset=23)
    proto.ir_version = 11
    graph = OnnxGraph.from_proto(proto)
    (site,) = graph.sites(Attention)
    assert (site.causal, site.has_mask, site.scale) == (bool(causal), False, 1 / math.sqrt(DIM))
    run = graph.run(FEEDS, [site.name])
    q, k, v = run.taps[site.name]
    assert_close(run.outputs[0], torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=bool(causal)))


def test_the_operator_with_heads_in_the_last_axis_and_fewer_of_k_and_v() -> None:
    shapes = {"q": [1, TOKENS, 4 * DIM], "k": [1, TOKENS, 2 * DIM], "v": [1, TOKENS, 2 * DIM]}
    call = helper.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=4, kv_num_heads=2, scale=0.5)
    proto = models.model([call], shapes, {"y": shapes["q"]}, opset=23)
    proto.ir_version = 11
    graph = OnnxGraph.from_proto(proto)
    (site,) = graph.sites(Attention)
    assert (site.heads, site.kv_heads, site.head_dim, site.scale) == (4, 2, DIM, 0.5)
    q, k, v = graph.run({name: random(*shape) for name, shape in shapes.items()}, [site.name]).taps[site.name]
    assert q.shape == (1, 4, TOKENS, DIM)
    assert k.shape == v.shape == (1, 2, TOKENS, DIM)
    assert torch.equal(q[0, 1, 2], torch.from_numpy(random(*shapes["q"]))[0, 2, DIM : 2 * DIM])


def test_torch_exports() -> None:
    (first, second) = OnnxGraph.from_proto(models.bert()[0]).sites(Attention)
    assert (first.name, second.name) == ("encoder.layer.0.attention.self", "encoder.layer.1.attention.self")
    assert (first.heads, first.head_dim, first.has_mask) == (4, 8, True)
    assert math.isclose(first.scale, 1 / math.sqrt(8), rel_tol=1e-6)


@pytest.mark.parametrize("opset", [18, 23])
def test_causal_torch_exports(opset: int) -> None:
    graph = OnnxGraph.from_proto(models.self_attention(opset))
    (site,) = graph.sites(Attention)
    assert (site.heads, site.head_dim, site.causal, site.has_mask) == (4, 8, True, False)
    run = graph.run([random(2, 7, 32)], [site.name, "out"])
    q, k, v = run.taps[site.name]
    oracle = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert_close(run.taps["out"][0], oracle.transpose(1, 2).flatten(2).contiguous())


NOT_ATTENTION = {
    "softmax over another axis": [*SCORES, node("Softmax", "s", "p", axis=2), WEIGHTED],
    "probabilities on the right": [*SCORES, node("Softmax", "s", "p", axis=-1), node("MatMul", "u p", "y")],
    "scores that are used twice": [*SCORES, node("Softmax", "s", "p", axis=-1), node("MatMul", "p v", "o"), node("Add", "o s", "y")],
    "scores from elsewhere": [node("Softmax", "q", "p", axis=-1), node("MatMul", "p w", "y")],
}


@pytest.mark.parametrize("form", NOT_ATTENTION)
def test_what_only_looks_like_attention(form: str) -> None:
    shapes = {name: [1, HEADS, TOKENS, TOKENS] for name in "qkvuw"}
    used = {name for op in NOT_ATTENTION[form] for name in op.input}
    shapes = {name: shape for name, shape in shapes.items() if name in used}
    proto = models.model(NOT_ATTENTION[form], shapes, {"y": [1, HEADS, TOKENS, TOKENS]})
    onnx.checker.check_model(proto)
    assert OnnxGraph.from_proto(proto).sites(Attention) == []


def sparse_op(grid: Grid, heads: int, scale: float) -> BlockAttention:
    """Some blocks of four tokens, another order for each head."""
    keep = torch.rand(heads, grid.blocks(4), grid.blocks(4), generator=torch.Generator().manual_seed(0)) < 0.3
    return BlockAttention(BlockMap(grid, 4, torch.arange(heads).to(torch.uint8), keep | required(grid, 4)), scale)


def check_replaced(graph: OnnxGraph, feeds: dict[str, np.ndarray], joined: bool = False) -> OnnxGraph:
    """Puts a block attention in the place of the one site, holds its output against the reference, and returns the graph as read
    back from its proto."""
    [site] = graph.sites(Attention)
    op = sparse_op(Grid(1, 3, 3, text_tokens=1), site.heads, site.scale)
    q, k, v = graph.run(feeds, [site.name]).taps[site.name]
    expected = op.reference(q, k, v)
    graph.replace(site, op)
    again = OnnxGraph.from_proto(graph.proto())
    for found in (graph, again):
        [sparse] = found.sites(Attention)
        assert (sparse.name, sparse.heads, sparse.head_dim, sparse.tokens) == (site.name, site.heads, site.head_dim, TOKENS)
        assert isinstance(sparse.block_map, BlockMap)
        assert torch.equal(sparse.block_map.keep, op.map.keep)
        run = found.run(feeds, [site.name])
        assert all(torch.equal(a, b) for a, b in zip(run.taps[site.name], (q, k, v), strict=True))
        assert_close(run.outputs[0], expected.transpose(1, 2).flatten(2) if joined else expected.contiguous())
    onnx.checker.check_model(graph.proto(), full_check=True)
    assert_close(torch.from_numpy(models.run(graph.proto(), **feeds)[0]), again.run(feeds).outputs[0])
    return again


@pytest.mark.parametrize("form", [form for form in FORMS if form != "masked"])
def test_every_form_can_be_replaced_and_leaves_nothing_behind(form: str) -> None:
    again = check_replaced(graph_of(form), FEEDS)
    assert {op.op_type for op in again.model.graph} == {"BlockAttention"}
    assert [name.rsplit(".", 1)[-1] for name in again.model.graph.initializers] == ["orders", "keep"]


def test_a_transposed_key_is_turned_back() -> None:
    nodes = [node("Transpose", "k", "t", perm=[0, 2, 3, 1]), *FORMS["scaled after"][1:]]
    shapes = Q | {"k": [1, TOKENS, HEADS, DIM]}
    graph = OnnxGraph.from_proto(models.model(nodes, shapes, OUT, {"scale": NUMBERS["scale"]}))
    check_replaced(graph, FEEDS | {"k": random(1, TOKENS, HEADS, DIM)})


@pytest.mark.parametrize("batch", [1, "batch"])
def test_the_operator_can_be_replaced_with_heads_in_the_last_axis_too(batch: int | str) -> None:
    flat = {name: [batch, TOKENS, HEADS * DIM] for name in "qkv"}
    call = helper.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=HEADS, kv_num_heads=HEADS)
    proto = models.model([call], flat, {"y": flat["q"]}, opset=23)
    proto.ir_version = 11
    feeds = {name: random(1, TOKENS, HEADS * DIM, seed=seed) for seed, name in enumerate("qkv")}
    check_replaced(OnnxGraph.from_proto(proto), feeds, joined=True)


def test_why_an_attention_cannot_be_replaced() -> None:
    wide = Q | {"v": [1, HEADS, TOKENS, 2 * DIM]}
    graph = OnnxGraph.from_proto(models.model(FORMS["scaled after"], wide, {"y": [1, HEADS, TOKENS, 2 * DIM]}, {"scale": NUMBERS["scale"]}))
    [site] = graph.sites(Attention)
    assert site.bound == "v has 16 channels for each head, q has 8"
    with pytest.raises(UserError, match="v has 16 channels"):
        graph.replace(site, sparse_op(Grid(1, 2, 5), HEADS, 1.0))
    call = helper.make_node("Attention", ["q", "k", "v"], ["y", "", "", "s"])
    proto = models.model([call], Q, {"y": Q["q"], "s": [1, HEADS, TOKENS, TOKENS]}, opset=23)
    proto.ir_version = 11
    assert [site.bound for site in OnnxGraph.from_proto(proto).sites(Attention)] == ["its keys or scores are outputs, too"]


def test_a_block_attention_that_contradicts_itself() -> None:
    graph = graph_of("scaled after")
    [site] = graph.sites(Attention)
    graph.replace(site, sparse_op(Grid(1, 2, 5), HEADS, site.scale))
    proto = graph.proto()
    call = next(call for call in proto.graph.node if call.op_type == "BlockAttention")
    next(attribute for attribute in call.attribute if attribute.name == "grid").ints[2] = 50
    with pytest.raises(ModelError, match=r"no BlockAttention that this version of sparsecc writes .keep is"):
        OnnxGraph.from_proto(proto)
