"""The slow backend as an oracle of the fast one: a small MiniLM, in every form that its layers can have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.attention.base import Grid
from sparsecc.codegen.backend import parse
from sparsecc.codegen.compiler import build
from sparsecc.errors import UserError
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.passes.quantize import Quantize
from sparsecc.passes.reorder_tokens import ReorderTokens
from tests.codegen.whole import HERE, Lambda, Parallel, block_map, fixed, packed, random, reordered, run, structured
from tests.tolerance import assert_close

WIDTH, TOKENS, HEADS = 32, 24, 2
REFERENCE = parse("reference", 1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (project(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for project in (self.q, self.k, self.v))
        x = self.norm1(x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))
        return self.norm2(x + self.fc2(functional.gelu(self.fc1(x))))


X = random(1, TOKENS, WIDTH)
EXACT = {"q": "4x1", "k": "2:4", "v": "unstructured", "out": "low_rank:5", "fc1": "monarch:2x4:2", "fc2": "kronecker:4x2:1"}
NARROW = {"q": "int8", "k": "bfloat16", "v": "int8", "out": "bfloat16", "fc1": "int8", "fc2": "bfloat16"}
ALLOWED = {"dense": 1e-4, "exact": 1e-4, "narrow": 0.02}  # of the largest magnitude


def in_form(graph: FxGraph, layer: str, form: str) -> FxGraph:
    """A layer that is packed by a pattern, structured, or, half of those in int8 packed before, quantized."""
    only = (layer,)
    if form in ("int8", "bfloat16"):
        stored = packed(graph, "4x1", 0.6, only) if layer.endswith(("q", "fc1")) else graph
        return Quantize(dtype=form, min_weights=0, targets=only).apply(stored).graph  # type: ignore[return-value]
    return structured(graph, form, targets=only) if ":" in form and form != "2:4" else packed(graph, form, 0.6, only)


def test_both_backends_compute_the_same() -> None:
    """Blocks in one graph: as it comes; in every form that computes as float32 does, with skipped blocks; and with narrow numbers."""
    torch.manual_seed(0)
    graph = fixed(Parallel([Block() for _ in ALLOWED]), *[X] * len(ALLOWED))
    for i, forms in enumerate((EXACT, NARROW), 1):
        for layer, form in forms.items():
            graph = in_form(graph, f"each.{i}.{layer}", form)
    graph = reordered(graph, block_map(Grid(2, 3, 4), HEADS, 4, 0.4), targets=(r"re:each\.1(\..*)?",))
    inputs = [X] * len(ALLOWED)
    ours, slow = (run(build(graph, inputs, target, measure=False)[0], inputs) for target in (HERE, REFERENCE))
    for (name, allowed), fast, reference, oracle in zip(ALLOWED.items(), ours, slow, graph.run(inputs).outputs, strict=True):
        scale = oracle.abs().max()
        assert (reference - oracle).abs().max() <= allowed * scale, f"{name}: the reference backend"
        assert (fast - reference).abs().max() <= allowed * scale, name


def test_windows_causal_and_masked() -> None:
    attend, seen = functional.scaled_dot_product_attention, torch.rand(2, 1, 1, 11) < 0.6
    seen[0, :, :, :8] = False  # a query whose window holds no key gets zeros
    inputs = [random(2, 4, 11, 8), *(random(2, 2, 11, 8) for _ in range(2)), *(random(2, 4, 11, 8) for _ in range(3)), seen]
    modules = [Lambda(lambda q, k, v: attend(q, k, v, is_causal=True, enable_gqa=True)), Lambda(attend)]
    result = ReorderTokens(pattern="sliding_window:3", block=4).apply(fixed(Parallel(modules, [3, 4]), *inputs))
    assert not any(match.refused for match in result.matches)
    outputs = run(build(result.graph, inputs, REFERENCE, measure=False)[0], inputs)
    for ours, oracle in zip(outputs, result.graph.run(inputs).outputs, strict=True):
        assert_close(ours, oracle.contiguous())


def test_images() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Conv2d(8, 4, 1), nn.MaxPool2d(2)
    )
    x = random(1, 3, 12, 10)
    changed = fixed(module, x)
    ours = run(build(changed, [x], REFERENCE)[0], [x])[0]
    assert torch.allclose(ours, module(x), atol=1e-5)


def test_what_is_no_name_of_it() -> None:
    with pytest.raises(UserError, match="reference takes no name"):
        parse("reference:fast", 1)
    with pytest.raises(UserError, match=r"there are: cpu, cpu:NAME, cuda, cuda:sm_90a,\.\., reference"):
        parse("vulkan", 1)
