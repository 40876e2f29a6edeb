"""Whole graphs against their hosts: odd shapes, both hosts, packed weights, free shapes, and the same result every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional

import sparsecc
from sparsecc.attention.base import Grid
from sparsecc.codegen.backend import Emitted
from sparsecc.codegen.compiler import build
from sparsecc.codegen.cpu import compile
from sparsecc.codegen.cpu.kernels import dense_group_matmul
from sparsecc.codegen.cpu.target import parse
from sparsecc.codegen.library import Library
from sparsecc.codegen.spec import MatmulSpec
from sparsecc.codegen.tvm_api import relax
from sparsecc.errors import ModelError
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import WeightSite
from sparsecc.passes.reorder_tokens import ReorderTokens
from tests.codegen.whole import (
    HERE,
    Case,
    Lambda,
    Parallel,
    block_map,
    check,
    check_onnx,
    compare,
    fixed,
    packed,
    random,
    reordered,
    run,
    structured,
)
from tests.graph.onnx_models import model, node
from tests.graph.onnx_models import random as array
from tests.laws.hosts import Transformer
from tests.tolerance import assert_close


class Heads(nn.Module):
    """Attention between two sequences, spelled out, in a layout of its own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(y).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        p = torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, -1)
        return x + self.out((p @ v).transpose(1, 2).flatten(2))


def case(module: nn.Module | Callable[..., Any], *inputs: Tensor) -> Case:
    return module, inputs


DOUBLE = (torch.exp, torch.erf, torch.tanh, torch.sigmoid, torch.sinh, torch.cosh, functional.gelu, functional.silu)
SQUARE = random(12, 12) / 4
CONV, POINTWISE = nn.Conv2d(4, 4, 3), nn.Conv2d(6, 6, 1)

CASES: dict[str, Case] = {
    "linear, one token": case(nn.Linear(30, 7), random(1, 30)),
    "linear, one input, one output": case(nn.Linear(1, 1), random(5, 1)),
    "linear, odd tokens": case(nn.Linear(13, 21, bias=False), random(3, 19, 13)),
    "linear, no batch": case(nn.Linear(9, 5), random(9)),
    "layers in a row": case(nn.Sequential(nn.Linear(9, 33), nn.GELU(), nn.Linear(33, 9), nn.Tanh(), nn.LayerNorm(9)), random(2, 21, 9)),
    "residuals": case(lambda x, y: functional.relu(x @ SQUARE + x) @ SQUARE + y, random(7, 12), random(7, 12, seed=1)),
    "residual made later": case(lambda x: (x @ SQUARE) + (x.exp() @ SQUARE).tanh(), random(18, 12)),
    "layer read twice": case(lambda x: (lambda y: (y, y.relu() * y))(x @ SQUARE), random(7, 12)),
    "conv2d": case(nn.Conv2d(7, 5, 3, padding=1), random(2, 7, 9, 11)),
    "conv2d, stride": case(nn.Conv2d(3, 8, 3, stride=2, padding=1), random(1, 3, 12, 15)),
    "conv2d, stride 3 x 1, wide kernel": case(nn.Conv2d(2, 3, (5, 2), stride=(3, 1)), random(1, 2, 13, 6)),
    "conv2d, dilation": case(nn.Conv2d(4, 6, 3, dilation=(2, 3), padding=(2, 3)), random(1, 4, 10, 12)),
    "conv2d, padding of one side": case(lambda x: CONV(functional.pad(x, (0, 1, 0, 1))), random(1, 4, 10, 12)),
    "conv2d, more padding than kernel": case(nn.Conv2d(3, 4, 2, padding=2), random(1, 3, 2, 2)),
    "conv2d, pointwise, residual": case(lambda x: functional.relu(POINTWISE(x) + x), random(2, 6, 5, 7)),
    "conv2d, pointwise, stride": case(nn.Conv2d(6, 4, 1, stride=2), random(1, 6, 7, 8)),
    "conv2d, residual": case(lambda x: CONV(functional.relu(CONV(x))) + x[:, :, 2:-2, 2:-2], random(1, 4, 12, 12)),
    "conv2d, one pixel": case(nn.Sequential(nn.Conv2d(5, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.Hardsigmoid()), random(3, 5, 1, 1)),
    "conv2d, one pixel, padded": case(nn.Conv2d(5, 4, 3, padding=1), random(2, 5, 1, 1)),
    "conv2d, one pixel, missed": case(nn.Conv2d(5, 4, 2, stride=3, padding=2, dilation=3), random(2, 5, 1, 1)),
    "conv2d, one pixel, residual": case(lambda x: POINTWISE(x) + x, random(3, 6, 1, 1)),
    "squeeze and excitation": case(lambda x: x * functional.hardsigmoid(POINTWISE(x.mean((2, 3), keepdim=True))), random(2, 6, 5, 7)),
    "depthwise": case(nn.Conv2d(6, 6, 3, padding=1, groups=6), random(1, 6, 7, 7)),
    "layer norm": case(nn.LayerNorm(33), random(3, 20, 33)),
    "layer norm, one token": case(nn.LayerNorm(7), random(1, 7)),
    "layer norm of two axes": case(nn.LayerNorm([5, 7]), random(3, 5, 7)),
    "elementwise": case(lambda x, y: (x - y) * x.sigmoid() / (y.abs() + 1) - functional.silu(x).maximum(y), random(5, 3, 7), random(3, 7)),
    "bias and scale on tiles": case(lambda x: ((x @ SQUARE) * 2 + 1).abs() * torch.arange(12.0), random(20, 12)),
    "column on tiles": case(lambda x: (x @ SQUARE) * torch.arange(20.0)[:, None], random(20, 12)),
    "views": case(lambda x: (x @ SQUARE).reshape(5, 4, 3, 4).permute(3, 0, 2, 1).flatten(1).transpose(0, 1), random(20, 12)),
    "heads and back": case(lambda x: (x @ SQUARE).reshape(2, 17, 3, 4).transpose(1, 2).exp().transpose(1, 2).flatten(2), random(2, 17, 12)),
    "activations alone": case(lambda x: (functional.hardswish(x), functional.relu6(x), functional.hardsigmoid(x)), 4 * random(3, 7)),
    "cross attention": case(Heads(12, 3), random(1, 16, 12), random(1, 16, 12, seed=1)),
    "input returned": case(lambda x: (x, x + 1, x), random(3, 5)),
    "filled with infinity": case(lambda x, m: x.masked_fill(m, -torch.inf).softmax(-1), random(3, 5), random(3, 5) > 0.5),
    "infinities": case(lambda x: (torch.full_like(x, torch.inf) > x, torch.where(x > 0, x, -torch.inf).exp()), random(3, 5)),
    "a causal mask": case(lambda x: (x @ x.mT).masked_fill(torch.tril(torch.ones(9, 9)) == 0, -torch.inf).softmax(-1) @ x, random(2, 9, 4)),
    "float64": case(lambda x: [f(x.double()) for f in DOUBLE], random(3, 37)),
    "scalars": case(lambda x: (x.sum(), x.mean() * 2), random(3, 5)),
}


@cache
def results() -> dict[str, list[tuple[Tensor, Tensor]]]:
    return compare(CASES)


@pytest.mark.parametrize("name", CASES)
def test_against_torch(name: str) -> None:
    for compiled, oracle in results()[name]:
        assert_close(compiled, oracle)


def test_onnx() -> None:
    """A branch of asymmetric convolutions, one of rows with a transposed weight, reshapes whose sizes are computed."""
    nodes = [
        node("Conv", "image w1 b1", "c1", pads=[0, 1, 2, 0], strides=[2, 1]),
        node("HardSwish", "c1", "c2"),
        node("Conv", "c2 w2", "c3", auto_pad="SAME_UPPER", strides=[2, 2]),
        node("GlobalAveragePool", "c3", "c4"),
        node("Flatten", "c4", "y1"),
        node("Gemm", "rows w3 b3", "g1", transB=1, alpha=0.5, beta=2.0),
        node("Relu", "g1", "g2"),
        node("MatMul", "g2 w4", "g3"),
        node("Add", "rows g3", "g4"),
        node("Softmax", "g4", "y2", axis=-1),
    ]
    weights = {
        "w1": array(6, 3, 3, 2),
        "b1": array(6),
        "w2": array(5, 6, 3, 3),
        "w3": array(11, 9),
        "b3": array(11),
        "w4": array(11, 9),
    }
    proto = model(nodes, {"image": [1, 3, 9, 8], "rows": [7, 9]}, {"y1": [1, 5], "y2": [7, 9]}, weights)
    check_onnx(proto, array(1, 3, 9, 8), array(7, 9))


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.point = nn.Conv2d(4, 16, 3, stride=2, padding=1), nn.Conv2d(16, 8, 1)
        self.fc1, self.fc2 = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(functional.relu(self.conv(x))).flatten(2).transpose(1, 2)
        return x + self.fc2(functional.gelu(self.fc1(x)))


IMAGE = random(2, 4, 7, 9)
ONNX_LAYERS = model(
    [
        node("Conv", "x w1 b1", "a", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("Conv", "b w2", "c"),
        node("Flatten", "c", "d", axis=2),
        node("MatMul", "d w3", "e"),
        node("Add", "e b3", "y"),
    ],
    {"x": [2, 4, 7, 9]},
    {"y": [2, 8, 32]},
    {"w1": array(16, 4, 3, 3), "b1": array(16), "w2": array(8, 16, 1, 1), "w3": array(63, 32), "b3": array(32)},
)


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "2:4"])
def test_packed(pattern: str) -> None:
    for dense in (fixed(Layers(), IMAGE), OnnxGraph.from_proto(ONNX_LAYERS)):
        graph = packed(dense, pattern, 0.75)
        stored = [site.name for site in graph.sites(WeightSite)]
        choices = check(graph, [IMAGE])
        assert choices
        assert {choice.site for choice in choices} <= {*stored}
        assert {choice.decision for choice in choices} == {"sparse"}


class Residuals(nn.Module):
    """Linear layers with all that may follow one; their widths divide no register tile."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3, self.fc4 = nn.Linear(24, 68), nn.Linear(68, 24, bias=False), nn.Linear(24, 24), nn.Linear(24, 20)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.fc2(functional.gelu(self.fc1(x)))
        return self.fc4(functional.relu(self.fc3(x) + x))


FEW: dict[str, tuple[str, ...]] = {  # pattern → kernels, one of which every layer takes
    "16x1": ("row_block_matvec",),
    "2:4": ("nm_matvec",),
    "1:4": ("nm_matvec",),
    "unstructured": ("row_block_spmm", "nm_matvec"),
    "4x1": ("row_block_spmm",),
}


class Odd(Residuals):
    """Wide enough for blocks of 16 rows; its head has rows for no vector."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3, self.fc4 = nn.Linear(32, 80), nn.Linear(80, 32, bias=False), nn.Linear(32, 32), nn.Linear(32, 9)


def without_rows(graph: FxGraph, target: str) -> FxGraph:
    """Every fifth row and the last 16 of some layers are zeros."""
    changed = graph.copy()
    for site in changed.sites(WeightSite, (target,)):
        weight = site.weight.detach().clone()
        weight[::5] = 0
        weight[-16:] = 0
        changed.set_weight(site, weight)
    return changed  # type: ignore[return-value]


SHAPES = (1,), (3,), (2, 4), (9,)


@pytest.mark.parametrize("pattern", FEW)
def test_few_tokens(pattern: str) -> None:
    """Residuals before and after activations, features in odd numbers; nine tokens are many. The last is without some rows."""
    torch.manual_seed(0)
    shapes = [*SHAPES, SHAPES[[*FEW].index(pattern) % len(SHAPES)]]
    inputs = [random(*shape, 32) for shape in shapes]
    graph = without_rows(fixed(Parallel([Odd() for _ in shapes]), *inputs), r"re:each\.4\..*")
    choices = check(packed(graph, pattern, 0.75), inputs)
    assert {choice.site.split(".")[1] for choice in choices} == {"0", "1", "2", "3", "4"}
    for choice in choices:
        index = int(choice.site.split(".")[1])
        names = FEW[pattern] if inputs[index].numel() <= 8 * 32 else ("row_block_spmm",)
        assert index == 4 or choice.kernel.split()[0] in names, choice


def test_a_transformer_of_few_tokens() -> None:
    """Attention has tiles of its own, normalization and softmax the natural order."""
    torch.manual_seed(0)
    inputs = [random(*shape, 32) for shape in 2 * ((1, 1), (2, 4), (1, 3), (3, 3))]
    graph = fixed(Parallel([Transformer(32, 4) for _ in inputs]), *inputs)
    check(packed(graph, "2:4", 0.5, (r"re:each\.[0-3]\..*",)), inputs)


KEYS = ("low_rank:5", "monarch:4x2:3", "monarch:1x8:2", "monarch:3x5:1")


@pytest.mark.parametrize(("threads", "shapes"), [(1, [(17,)]), (2, [(1,), (128,), (2, 19)])])
def test_structured(threads: int, shapes: list[tuple[int, ...]]) -> None:
    inputs = [random(*shape, 24) for shape in shapes]
    torch.manual_seed(0)
    graph = structured(fixed(Parallel([Residuals()] * len(inputs)), *inputs), *KEYS)
    choices = check(graph, inputs, replace(HERE, threads=threads))
    assert len(choices) == len(KEYS) * len(inputs)
    assert {choice.decision for choice in choices} == {"structured"}
    assert {" then " in choice.kernel for choice in choices} == ({False} if threads == 1 else {False, True})


ONNX_RESIDUALS = model(
    [
        node("MatMul", "x w1", "a"),
        node("Add", "a b1", "b"),
        node("Relu", "b", "c"),
        node("Gemm", "c w2 b2", "d", transB=1),
        node("Add", "d x", "e"),
        node("MatMul", "e w3", "y"),
    ],
    {"x": [19, 24]},
    {"y": [19, 20]},
    {"w1": array(24, 68), "b1": array(68), "w2": array(24, 68), "b2": array(24), "w3": array(24, 20)},
)


def test_structured_onnx() -> None:
    graph = structured(OnnxGraph.from_proto(ONNX_RESIDUALS), "low_rank:5", "monarch:4x2:3", "kronecker:4x6:1")
    choices = check(graph, [random(19, 24)])
    assert [choice.decision for choice in choices] == ["structured"] * 3


def attention_inputs(batch: int, heads: int, grid: Grid, dim: int) -> list[Tensor]:
    return [random(batch, heads, grid.tokens, dim, seed=seed) for seed in range(3)]


# batch, grid, head_dim, block
REORDERED: dict[str, tuple[int, Grid, int, int]] = {
    "no text": (1, Grid(2, 3, 9), 32, 16),
    "text first": (2, Grid(2, 3, 4, 5), 64, 8),
    "text last, odd": (3, Grid(3, 7, 5, 2, text_first=False), 32, 16),
    "wide heads": (1, Grid(3, 5, 5), 128, 32),
    "one token": (2, Grid(1, 1, 1), 32, 64),
    "block of no vector": (1, Grid(1, 4, 7, 1), 40, 5),
    "curves": (1, Grid(3, 5, 6, 2), 32, 16),
}
HEADS = 6  # one in each order


def attentions(names: Sequence[str], density: float) -> tuple[FxGraph, FxGraph, list[Tensor]]:
    """A graph of them with dense attention, the same with blocks, and its inputs."""
    cases = [REORDERED[name] for name in names]
    inputs = [x for batch, grid, dim, _ in cases for x in attention_inputs(batch, HEADS, grid, dim)]
    dense = fixed(Parallel([Lambda(functional.scaled_dot_product_attention) for _ in cases], [3] * len(cases)), *inputs)
    maps = [block_map(grid, HEADS, block, density, name == "curves") for name, (_, grid, _, block) in zip(names, cases, strict=True)]
    return dense, reordered(dense, *maps), inputs


def test_reordered() -> None:
    _, graph, inputs = attentions(list(REORDERED), 0.3)
    check(graph, inputs)


def test_all_blocks_are_dense_attention() -> None:
    dense, graph, inputs = attentions(["text last, odd", "block of no vector"], 1.0)
    library, _ = build(graph, inputs, HERE, measure=False)
    for ours, oracle in zip(run(library, inputs), dense.run(inputs).outputs, strict=True):
        assert_close(ours, oracle.contiguous())


def windowed(graph: FxGraph | OnnxGraph) -> Any:
    """Every attention with a window."""
    result = ReorderTokens(pattern="sliding_window:5", block=4, text_tokens=2).apply(graph)
    assert not any(match.refused for match in result.matches) and result.modified
    return result.graph


def window_inputs() -> list[Tensor]:
    """q, and k and v of half as many heads; q, k, v and which keys are seen, for some batch none of the first ones."""
    seen = torch.rand(2, 1, 1, 19) < 0.6
    seen[0, :, :, :11] = False
    return [random(2, 4, 19, 8), *(random(2, 2, 19, 8) for _ in range(2)), *(random(2, 4, 19, 8) for _ in range(3)), seen]


def test_windows_causal_masked_and_with_shared_keys() -> None:
    inputs = window_inputs()
    attend = functional.scaled_dot_product_attention
    causal, masked = Lambda(lambda q, k, v: attend(q, k, v, is_causal=True, enable_gqa=True)), Lambda(attend)
    check(windowed(fixed(Parallel([causal, masked], [3, 4]), *inputs)), inputs)


def test_windows_onnx() -> None:
    nodes = [
        helper.make_node("Attention", ["q", "k", "v"], ["y"], is_causal=1),
        helper.make_node("Attention", ["q2", "k2", "v2", "seen"], ["z"]),
    ]
    inputs = window_inputs()
    names = ["q", "k", "v", "q2", "k2", "v2", "seen"]
    kinds = [TensorProto.BOOL if x.dtype == torch.bool else TensorProto.FLOAT for x in inputs]
    given = [helper.make_tensor_value_info(name, kind, x.shape) for name, kind, x in zip(names, kinds, inputs, strict=True)]
    out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4, 19, 8]) for name in ("y", "z")]
    graph = helper.make_graph(nodes, "g", given, out)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    check(windowed(OnnxGraph.from_proto(proto)), inputs)


def test_reordered_onnx() -> None:
    nodes = [
        node("Transpose", "k", "t", perm=[0, 1, 3, 2]),
        node("MatMul", "q t", "s"),
        node("Mul", "s scale", "r"),
        node("Softmax", "r", "p", axis=-1),
        node("MatMul", "p v", "o"),
        node("Transpose", "o", "y", perm=[0, 2, 1, 3]),
    ]
    for name, density in (("text last, odd", 0.3), ("text first", 1.0)):
        batch, grid, dim, block = REORDERED[name]
        inputs = attention_inputs(batch, HEADS, grid, dim)
        shape = [*inputs[0].shape]
        out = [shape[0], shape[2], shape[1], shape[3]]
        proto = model(nodes, dict.fromkeys("qkv", shape), {"y": out}, {"scale": np.array(dim**-0.5, np.float32)})
        check(reordered(OnnxGraph.from_proto(proto), block_map(grid, HEADS, block, density)), inputs)


def test_free_shapes_become_fixed_ones() -> None:
    graph = FxGraph.from_module(Transformer(16, 2).eval(), random(2, 10, 16))
    assert isinstance(graph.inputs[0].shape[1], str)
    check(graph, [random(1, 16, 16)])
    assert isinstance(graph.inputs[0].shape[1], str)


@cache
def built(threads: int = 2) -> Library:
    graph = packed(fixed(Layers(), IMAGE), "4x1", 0.5)
    return build(graph, [IMAGE], replace(HERE, threads=threads), measure=False)[0]


def test_the_same_code_and_weights_every_time() -> None:
    first = built()
    built.cache_clear()
    again = built()
    assert first is not again
    assert list(first.weights) == list(again.weights)
    assert all(np.array_equal(first.weights[name], again.weights[name]) for name in first.weights)
    assert source(first) == source(again)


def source(library: Library) -> list[str]:
    return [str(library.executable.as_text()), *assembly_of(library.executable)]


def assembly_of(executable: Any) -> list[str]:
    found, remaining = [], [executable.mod]
    while remaining:
        module = remaining.pop()
        remaining += list(module.imports)
        if module.kind == "llvm":
            found.append(module.inspect_source("asm"))
    assert found
    return found


def test_the_same_bits_every_time() -> None:
    [first], [again] = run(built(), [IMAGE]), run(built(), [IMAGE])
    assert torch.equal(first, again)


def test_threads_agree() -> None:
    [two], [one] = run(built(), [IMAGE]), run(built(1), [IMAGE])
    assert_close(one, two)


def test_code_that_kernels_link_passes_through_the_whole_compiler() -> None:
    """Two kernels, which link the same."""
    target, builder, kernels = parse("cpu:znver4", 2), relax.BlockBuilder(), {}
    for inputs in (64, 256):
        spec = replace(MatmulSpec.linear(48, inputs, 1, 32), dtype="bfloat16")
        kernel = dense_group_matmul.build(spec, dense_group_matmul.space(spec, target)[0], target).with_attr(
            "global_symbol", f"kernel{inputs}"
        )
        kernels[builder.add_func(kernel, f"kernel{inputs}")] = [relax.TensorType(p.shape, str(p.dtype)) for p in kernel.params]
    arguments = {gvar: [relax.Var(f"x{i}", ty) for i, ty in enumerate(types[:-1])] for gvar, types in kernels.items()}
    with builder.function("main", [var for variables in arguments.values() for var in variables]):
        with builder.dataflow():
            outputs = [builder.emit(relax.call_tir(gvar, arguments[gvar], types[-1])) for gvar, types in kernels.items()]
            result = builder.emit_output(relax.Tuple(outputs))
        builder.emit_func_output(result)
    text = "".join(assembly_of(compile.compile_relax(Emitted(builder.get(), {}), target)))
    assert "vdpbf16ps" in text
    assert "sparsecc_bfloat16_dot" not in text


def test_what_tvm_cannot_lower_is_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: Any, target: Any) -> Any:
        raise TypeError("in its own words\nno such intrinsic\n")

    monkeypatch.setattr(compile, "_passes", fail)
    with pytest.raises(ModelError, match=r"cannot generate code for this model: no such intrinsic$"):
        build(fixed(nn.ReLU(), random(3, 5)), [random(3, 5)], HERE, measure=False)


def test_an_error_without_words_is_no_operators_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """TVM makes such a RuntimeError of Ctrl-C in what it calls back."""

    def fail(module: Any, target: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(compile, "_passes", fail)
    with pytest.raises(RuntimeError, match=r"^$"):
        compile.compile_relax(Emitted(None, {}), HERE)


def test_the_operator_is_named_when_the_model_has_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: Any, target: Any) -> Any:
        if "tanh" in str(module):
            raise TypeError("no such intrinsic")
        return usual(module, target)

    usual = compile._passes
    monkeypatch.setattr(compile, "_passes", fail)
    proto = model([node("Relu", "x", "h"), node("Tanh", "h", "y")], {"x": [3, 5]}, {"y": [3, 5]}, name="m")
    proto.graph.node[1].name = "last"
    graph = OnnxGraph.from_proto(proto)
    with pytest.raises(ModelError, match=r"^model 'm': the compiler cannot generate code for Tanh \(at 'last'\): no such intrinsic$"):
        build(graph, [random(3, 5)], HERE, measure=False)


def test_outputs_that_are_constants_are_the_callers_own() -> None:
    small, large = torch.arange(4.0), torch.arange(100.0)
    compiled = sparsecc.compile(Lambda(lambda x: (x + 1, small, torch.zeros_like(x), large, torch.tensor(3))), (random(3, 5),), threads=1)
    for output in compiled(random(3, 5)):
        output.add_(1)
    expected = (random(3, 5) + 1, torch.arange(4.0), torch.zeros(3, 5), torch.arange(100.0), torch.tensor(3))
    assert all(torch.equal(a, b) for a, b in zip(compiled(random(3, 5)), expected, strict=True))
