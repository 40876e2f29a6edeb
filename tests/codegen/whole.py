"""Compiles whole graphs and compares them with their host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import cycle, islice
from typing import Any, TypeVar

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparsecc import structures
from sparsecc.attention import orders
from sparsecc.attention.base import AXIS_ORDERS, BlockMap, Grid, required
from sparsecc.codegen import compiler, tvm_api
from sparsecc.codegen.backend import Emitted, whole
from sparsecc.codegen.choose import Choice, Chooser
from sparsecc.codegen.compiler import build
from sparsecc.codegen.cpu import threads
from sparsecc.codegen.cpu.target import Target, detect
from sparsecc.codegen.library import Library
from sparsecc.codegen.task import Known, Task
from sparsecc.graph.base import ALL, Graph, Targets
from sparsecc.graph.fx import trace
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Attention, Linear
from sparsecc.ops.block_attention.torch import BlockAttention
from sparsecc.ops.structured_linear.torch import StructuredLinear
from sparsecc.passes.pack import Pack
from sparsecc.passes.prune import Prune
from tests.tolerance import assert_close

HERE = detect(2)
G = TypeVar("G", bound=Graph)


Case = tuple[nn.Module | Callable[..., Any], tuple[Tensor, ...]]  # what is compiled, and its inputs


class Parallel(nn.Module):
    """Independent modules, each with its own inputs (one unless counted), in one graph: one build for many cases."""

    def __init__(self, modules: Sequence[nn.Module], counts: Sequence[int] | None = None) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)
        self.counts = [1] * len(modules) if counts is None else list(counts)

    def forward(self, *inputs: Tensor) -> tuple[Any, ...]:
        remaining = iter(inputs)
        return tuple(module(*islice(remaining, count)) for module, count in zip(self.each, self.counts, strict=True))


class Lambda(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def as_module(module: nn.Module | Callable[..., Any]) -> nn.Module:
    return (module if isinstance(module, nn.Module) else Lambda(module)).eval()


def fx(module: nn.Module | Callable[..., Any], *inputs: Tensor) -> FxGraph:
    return FxGraph.from_module(as_module(module), inputs)


def fixed(module: nn.Module | Callable[..., Any], *inputs: Tensor) -> FxGraph:
    """For the shapes of `inputs` alone: looking for free ones takes torch longer than compiling."""
    return FxGraph.from_exported(trace.export_fixed(as_module(module), (inputs, {})))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def emitted(graph: Graph, inputs: Sequence[Tensor], target: Target) -> Emitted:
    """What would be compiled for a target, without measuring."""
    program = compiler._program(compiler._imported(graph, [x.numpy() for x in inputs]))
    return whole(target).emit(program, Chooser(target, measure=False))


def run(library: Library, inputs: Sequence[Any]) -> list[Tensor]:
    machine = tvm_api.VirtualMachine(library.executable, tvm_api.cpu())
    tensors = [tvm_api.tensor(array) for array in (*(np.ascontiguousarray(x) for x in inputs), *library.weights.values())]
    outputs = threads.run(library.target.threads, lambda: machine["main"](*tensors))
    return [torch.from_numpy(out.numpy().copy()) for out in outputs]


def check(
    graph: Graph, inputs: Sequence[Tensor], target: Target = HERE, measure: bool = False, known: Mapping[Task, Known] | None = None
) -> list[Choice]:
    """Compiled, it computes what its host computes, and says what that looks like."""
    library, choices = build(graph, inputs, target, measure=measure, known=known)
    outputs, oracle = run(library, inputs), graph.run(inputs).outputs
    assert len(outputs) == len(oracle) == len(library.outputs)
    for out, expected, spec in zip(outputs, oracle, library.outputs, strict=True):
        assert_close(out, expected.detach())
        assert (spec.shape, spec.dtype) == (tuple(expected.shape), str(expected.dtype).removeprefix("torch."))
    return choices


def check_fx(module: nn.Module | Callable[..., Any], *inputs: Tensor) -> list[Choice]:
    return check(fixed(module, *inputs), inputs)


def check_onnx(proto: onnx.ModelProto, *inputs: Any) -> list[Choice]:
    return check(OnnxGraph.from_proto(proto), [torch.as_tensor(x) for x in inputs])


def compare(cases: Mapping[str, Case]) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """All cases compiled in one graph: for each, its outputs as (compiled, torch's)."""
    modules = [as_module(module) for module, _ in cases.values()]
    inputs = [x for _, given in cases.values() for x in given]
    together = Parallel(modules, [len(given) for _, given in cases.values()])
    library, _ = build(fixed(together, *inputs), inputs, HERE, measure=False)
    outputs = iter(run(library, inputs))
    with torch.no_grad():
        oracles = [pytree.tree_leaves(module(*given)) for module, (_, given) in zip(modules, cases.values(), strict=True)]
    return {name: [(next(outputs), value) for value in oracle] for name, oracle in zip(cases, oracles, strict=True)}


def against_torch(cases: Mapping[str, Case]) -> Callable[[str], None]:
    """A test of each case, all of them compiled once: values and types are torch's."""
    results = cache(lambda: compare(cases))

    @pytest.mark.parametrize("name", cases)
    def test(name: str) -> None:
        for compiled, oracle in results()[name]:
            assert compiled.dtype == oracle.dtype
            assert_close(compiled, oracle)

    return test


def packed(graph: G, pattern: str, sparsity: float, targets: Targets = ALL) -> G:
    """Pruned by magnitude and stored."""
    pruned = Prune(pattern=pattern, sparsity=None if ":" in pattern else sparsity, min_weights=0, targets=targets).apply(graph).graph
    return Pack(targets=targets).apply(pruned).graph  # type: ignore[return-value]


def structured(graph: G, *keys: str, targets: Targets = ALL) -> G:
    """Every linear layer as the nearest matrix of a structure, the keys in turns."""
    changed = graph.copy()
    for site, key in zip(list(changed.sites(Linear, targets)), cycle(keys), strict=False):
        weight = structures.from_key(key).project(site.weight.detach())
        changed.replace(site, StructuredLinear(weight, site.bias))
    return changed  # type: ignore[return-value]


def block_map(grid: Grid, heads: int, block: int, density: float, curves: bool = False) -> BlockMap:
    """Blocks drawn at random beside those that have to be kept; the heads in one order after the other, of axes or along the two curves."""
    blocks = grid.blocks(block)
    keep = torch.rand(heads, blocks, blocks, generator=torch.Generator().manual_seed(grid.tokens)) < density
    by_axes = torch.arange(heads).remainder(len(AXIS_ORDERS)).to(torch.uint8)
    by_token = torch.stack([(orders.morton, orders.hilbert)[head % 2](grid) for head in range(heads)]).int()
    return BlockMap(grid, block, by_token if curves else by_axes, keep | required(grid, block))


def reordered(graph: G, *maps: BlockMap, targets: Targets = ALL) -> G:
    """Every attention over the blocks of a map."""
    changed = graph.copy()
    for site, found in zip(list(changed.sites(Attention, targets)), maps, strict=True):
        changed.replace(site, BlockAttention(found, site.scale))
    return changed  # type: ignore[return-value]
