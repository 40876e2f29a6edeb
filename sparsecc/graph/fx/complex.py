"""Complex numbers as pairs of real ones in a last axis: rotary embeddings are written with them, and TVM has none."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from sparsecc.errors import ModelError
from sparsecc.graph.fx.cleanup import sweep
from sparsecc.graph.fx.complex_ways import MAKERS, WAYS, Complex
from sparsecc.graph.fx.layers import place_of, stored
from sparsecc.graph.fx.tensors import assign, free_name

_DEPTH = 4  # how often what an operator is spelled in may have to be taken apart, too


def without_complex(module: GraphModule) -> nn.Module:
    """The module, or one around it that computes the same by real operators, where complex numbers are inside. It returns flat outputs.
    Raises ModelError for inputs or outputs that are complex, and for an operator that has no real form here."""
    if not any(_is_complex(node.meta.get("val")) for node in module.graph.nodes):
        return module
    output = next(iter(module.graph.find_nodes(op="output")))
    for node in (*module.graph.find_nodes(op="placeholder"), *output.all_input_nodes):
        if _is_complex(node.meta.get("val")):
            raise ModelError(f"'{node.name}' of the model's inputs or outputs is complex; take and return torch.view_as_real of it")
    return _Real(module)


def taken_apart(program: ExportedProgram) -> ExportedProgram:
    """With the operators that give or take complex numbers spelled in the simplest ones, as stft in _fft_r2c."""
    ways = dict(torch.export.default_decompositions().items())
    for _ in range(_DEPTH):
        calls = [node for node in program.graph.nodes if node.op == "call_function" and _touches_complex(node)]
        table = {node.target: ways[node.target] for node in calls if node.target in ways and node.target not in WAYS}
        if not table:
            break
        program = program.run_decompositions(table)
    return program


def _touches_complex(node: fx.Node) -> bool:
    return any(_is_complex(part.meta.get("val")) for part in (node, *node.all_input_nodes))


def _is_complex(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_complex()


class _Real(nn.Module):
    """A module whose complex tensors are pairs, run by real operators."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__()
        self.module = module
        self.pairs: set[str] = set()
        for node in module.graph.find_nodes(op="get_attr"):
            value = stored(node)
            if _is_complex(value):
                assert value is not None
                name = free_name(module, f"{node.target}_pairs")
                assign(module, name, torch.view_as_real(value.resolve_conj()).contiguous(), trainable=False)
                node.target = name
                self.pairs.add(name)
        sweep(module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        flat = pytree.tree_leaves((args, kwargs))
        return RealArithmetic(self.module, self.pairs).run(*flat, enable_io_processing=False)


class RealArithmetic(fx.Interpreter):
    """Runs a graph with a `Complex` wherever a value is complex. pairs: names of the tensors that hold such."""

    def __init__(self, module: GraphModule, pairs: Container[str]) -> None:
        super().__init__(module)
        self.pairs = pairs
        self._node: fx.Node  # that is being run

    def run_node(self, n: fx.Node) -> Any:
        self._node = n
        return super().run_node(n)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return Complex(value) if target in self.pairs else value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        flat = [*args, *kwargs.values()]
        held = [x for value in flat for x in (value if isinstance(value, (list, tuple)) else [value])]
        if not _is_complex(self._node.meta.get("val")) and target not in MAKERS and not any(isinstance(x, Complex) for x in held):
            return super().call_function(target, args, kwargs)
        way = WAYS.get(target)
        if way is None:
            name = getattr(target, "__name__", target)
            raise ModelError(f"the compiler has no operator for: {name} of complex numbers (at {place_of(self._node)})")
        return way(*args, **kwargs)
