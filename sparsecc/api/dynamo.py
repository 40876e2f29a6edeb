"""`torch.compile(model, backend="sparsecc")`: packed layers call our kernels, and inductor compiles the rest.

Options: recipe (as for `sparsecc.compile`; without one, zeros that are there already are packed), cache (of built kernels), inductor (its
options). A mode of `torch.compile`, as "reduce-overhead", is inductor's.

Weights are packed when the graph is compiled: what is written into a parameter afterwards is not seen.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparsecc.api.rewriting import rewrite
from sparsecc.errors import RecipeWarning, UserError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.fx import GraphModule, Node

_OPTIONS = ("recipe", "cache", "inductor")


def backend(
    module: GraphModule, example_inputs: Sequence[Any], *, mode: str | None = None, options: Mapping[str, Any] | None = None
) -> Any:
    """What torch.compile calls for each graph. Raises UserError for options that there are not, and where there is no GPU."""
    import torch
    from torch._inductor import list_mode_options
    from torch._inductor.compile_fx import compile_fx

    from sparsecc.codegen.cuda.target import parse

    given = dict(options or {})
    unknown = sorted(set(given) - set(_OPTIONS))
    if unknown:
        raise UserError(f"torch.compile(backend='sparsecc'): no option {unknown[0]!r}; there are: {', '.join(_OPTIONS)}")
    target = parse("cuda", 1)
    if torch.is_grad_enabled() and any(getattr(value, "requires_grad", False) for value in example_inputs):
        raise UserError("torch.compile(backend='sparsecc'): compiled layers have no gradients; call the model under torch.no_grad()")
    patches = {**(list_mode_options(mode) if mode else {}), **given.get("inductor", {})}
    if not all(isinstance(value, torch.Tensor) for value in example_inputs):
        note = "a graph with sizes that change is inductor's alone, without the recipe; dynamic=False compiles one for each size"
        warnings.warn(note, RecipeWarning, stacklevel=2)
        return compile_fx(module, list(example_inputs), config_patches=patches)
    held = {place: value for place, value in enumerate(example_inputs) if _is_static(value)}
    inputs = [value for place, value in enumerate(example_inputs) if place not in held]
    lowered = _lowered(_bound(module, held, len(example_inputs)), inputs, target, given)
    compiled: Any = compile_fx(lowered, inputs, config_patches=patches)
    places = [place for place in range(len(example_inputs)) if place not in held]
    return lambda *arguments: compiled(*[arguments[place] for place in places])


def _is_static(value: Tensor) -> bool:
    """A parameter or buffer of the model, which dynamo makes an input and marks."""
    from torch.nn import Parameter

    return isinstance(value, Parameter) or getattr(value, "_dynamo_static_input_type", None) is not None


def _bound(module: GraphModule, held: Mapping[int, Tensor], count: int) -> nn.Module:
    """The module with its parameters and buffers where torch.export sees them, under the model's names."""
    from torch import nn

    from sparsecc.graph.fx.tensors import assign, free_name

    placeholders = list(module.graph.find_nodes(op="placeholder"))
    names = {place: _name(placeholders[place]) for place in held}

    class Bound(nn.Module):
        def forward(self, *inputs: Any) -> Any:
            rest = iter(inputs)
            return module(*(_tensor(self, names[place]) if place in held else next(rest) for place in range(count)))

    bound = Bound()
    for place, value in held.items():
        names[place] = free_name(bound, names[place])  # two models may have the same names
        assign(bound, names[place], value, trainable=False, learnt=isinstance(value, nn.Parameter))
    return bound


def _name(placeholder: Node) -> str:
    """blocks.0.weight of what dynamo calls L['self']._modules['blocks']._modules['0']._parameters['weight']."""
    source = getattr(placeholder, "_dynamo_source", None) or getattr(placeholder.meta.get("grapharg"), "source", None)
    said: Any = getattr(source, "name", "")
    parts = re.findall(r"_(?:modules|parameters|buffers)\['([^']+)'\]", str(said() if callable(said) else said))
    return ".".join(parts) or str(placeholder.target)


def _tensor(module: Any, name: str) -> Tensor:
    for part in name.split("."):
        module = getattr(module, part)
    return module


def _lowered(module: nn.Module, inputs: list[Any], target: Any, options: Mapping[str, Any]) -> GraphModule:
    import torch
    from torch.fx.graph import CodeGen

    from sparsecc.api.gpu import builder
    from sparsecc.codegen.cuda.choose import Chooser
    from sparsecc.codegen.cuda.lower import lower
    from sparsecc.graph.fx.graph import FxGraph
    from sparsecc.recipe import Recipe

    graph = FxGraph.from_exported(torch.export.export(module, tuple(inputs)), stateful=True)
    result = rewrite(graph, Recipe.load(options.get("recipe")), (), None, graph.name)
    made = result.graph
    assert isinstance(made, FxGraph)
    with torch.no_grad():
        lowered = lower(made.copy().module, Chooser(target, builder(options.get("cache")), measure=target.is_here)).module
    lowered.graph.set_codegen(CodeGen())
    lowered.recompile()
    return lowered
