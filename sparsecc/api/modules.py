"""A pruned torch module that is still the module it was: for training on, and for other runtimes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

from sparsecc.api.compare import compared
from sparsecc.api.sources import open_graph
from sparsecc.calibration.samples import samples_of
from sparsecc.errors import RecipeError, Refused, SparseccError, UserError
from sparsecc.graph.given import in_order

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from sparsecc.calibration.context import Progress
    from sparsecc.graph.base import Graph
    from sparsecc.graph.sites import WeightSite
    from sparsecc.passes.base import Pass, PassResult
    from sparsecc.recipe import Recipe

PASSES = ("permute", "prune", "recover")  # those that give weights other values, and leave modules what they are
_TOLERANCE = {"float32": 1e-3, "float64": 1e-3}  # of the outputs, relative to the largest; others hold few digits
_COARSE = 3e-2


def prune_module(
    model: nn.Module,
    recipe: Any,
    example_inputs: Any = None,
    *,
    calibration: Iterable[Any] | str | PathLike[str] | None = None,
    inplace: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> nn.Module:
    """The module with the zeros of the recipe in its own weights: its class, names, parameters and the keys of its state_dict stay.

    recipe: as for `compile`, of the passes prune, recover and permute; `pack` is left to `compile`.
    example_inputs, calibration: as for `compile`. Without example inputs (nor a list of samples) nothing is traced: layers are then the
    Linear modules and convolutions, for a recipe that looks at weights alone.
    inplace: write into the model itself, so that an optimizer of it goes on; else into a copy.

    A weight that the module computes (a prune mask of torch, weight_norm, a parametrization) is written by way of what it is computed
    from. Layers for which there is no such way are left as they are, with a warning that names them and why; named in `targets` they are
    an error. Raises UserError and its children for what the caller can mend, and where no layer was pruned.
    """
    from torch import nn

    from sparsecc.calibration.context import Context
    from sparsecc.graph.fx.computed import copied, plain
    from sparsecc.graph.fx.opening import check_kinds, check_loaded
    from sparsecc.passes import pipeline
    from sparsecc.passes.prune import Prune
    from sparsecc.recipe import Recipe

    if not isinstance(model, nn.Module):
        raise UserError(f"a {type(model).__name__} is no torch.nn.Module; sparsecc.convert takes ONNX models")
    check_loaded(model)
    check_kinds(model)
    steps = _taken(Recipe.load(recipe))
    example = _example(example_inputs, calibration)
    twin = plain(model)
    graph = _graph(twin, example)
    samples = samples_of(calibration, graph.inputs)
    left, folded = _unwritable(graph, model, twin), _folded(graph, twin)
    steps = replace(steps, passes=tuple(_without(step, left if type(step) is Prune else {**folded, **left}) for step in steps.passes))
    if any(type(step) is not Prune for step in steps.passes):
        left = {**folded, **left}
    result, outcomes = pipeline.run(graph, steps, Context(calibration=samples, progress=progress))
    _require_change(outcomes, left)
    target = model if inplace else copied(model)
    with _undone(target) if inplace else nullcontext():
        _write(graph, result, twin, target)
        if example is not None:
            _require_same(target, example, result)
    if left:
        warnings.warn("left as they are: " + "; ".join(str(reason.at(name)) for name, reason in left.items()), stacklevel=2)
    return target


def _taken(recipe: Recipe) -> Recipe:
    """Without `pack`. Raises RecipeError for a pass that puts other operators in the place of modules, and where none is left."""
    from sparsecc.passes.base import registered_name

    named = [(number, registered_name(step), step) for number, step in enumerate(recipe.passes)]
    for number, name, step in named:
        where = f"{recipe.source}: passes[{number}].{name}"
        if name not in (*PASSES, "pack"):
            raise RecipeError(f"{where}: changes what layers are, a module stays what it is; leave it out, or use sparsecc.compile")
        if getattr(step, "inputs", False):
            raise RecipeError(f"{where}.inputs: puts gathers before layers, a module has no place for them; leave it out")
    taken = tuple(step for _, name, step in named if name != "pack")
    if not taken:
        raise RecipeError(f"{recipe.source}: has no pass that changes weights; take prune")
    return replace(recipe, passes=taken)


def _example(example_inputs: Any, calibration: Any) -> Any:
    if example_inputs is not None or calibration is None:
        return example_inputs
    if isinstance(calibration, list | tuple) and calibration:
        return calibration[0]
    raise UserError("example_inputs: needed to trace the model for calibration; pass a tuple of tensors, or a dict by name")


def _graph(twin: nn.Module, example: Any) -> Graph:
    from sparsecc.graph.fx.untraced import UntracedGraph

    return UntracedGraph(twin) if example is None else open_graph(twin, example)


def _without(step: Pass, left: Mapping[str, Refused]) -> Pass:
    """The pass without layers that cannot be written. Raises UserError for one that its targets name."""
    targets, ignore = getattr(step, "targets", ()), getattr(step, "ignore", ())
    for name, reason in left.items():
        if name in targets:
            raise UserError(str(reason.at(name)))
    return replace(step, ignore=(*ignore, *left)) if left else step


def _unwritable(graph: Graph, model: nn.Module, twin: nn.Module) -> dict[str, Refused]:
    """The layers whose weight in the graph is not one of the module's, or one that takes no zeros, by name."""
    from sparsecc.graph.sites import WeightSite

    found = {site.name: _reason(site, graph, model, twin) for site in graph.sites(WeightSite)}
    return {name: reason for name, reason in found.items() if reason is not None}


def _folded(graph: Graph, twin: nn.Module) -> dict[str, Refused]:
    """The layers into which a batch norm is folded in the graph: their biases and the order of their outputs are not the module's."""
    import torch

    from sparsecc.graph.sites import WeightSite

    stands, held = _tensors(twin), _tensors(graph.module)  # type: ignore[attr-defined]
    sites = [site for site in graph.sites(WeightSite) if site.weight_name in stands]
    names = [site.name for site in sites if not torch.equal(stands[site.weight_name], held[site.weight_name])]
    return dict.fromkeys(names, Refused("a batch norm is part of it in the trace, so that prune alone can change it"))


def _reason(site: WeightSite, graph: Graph, model: nn.Module, twin: nn.Module) -> Refused | None:
    from sparsecc.graph.fx.computed import writable

    stands, held = _tensors(twin).get(site.weight_name), _tensors(graph.module)[site.weight_name]  # type: ignore[attr-defined]
    if stands is None or _factors(stands, held) is None:
        return Refused("its weight is computed from other tensors of the model, where no zeros can be written")
    path, _, name = site.weight_name.rpartition(".")
    return writable(model.get_submodule(path), name)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))}


def _factors(stands: Tensor, held: Tensor) -> Tensor | None:
    """By what each row of a module's tensor is multiplied in the graph, into which batch norms are folded; None where it is something
    else."""
    import torch

    if stands.shape != held.shape:
        return None
    if torch.equal(stands, held):
        return torch.ones(len(held), dtype=torch.float64, device=held.device)
    if held.dim() < 2:
        return None
    a, b = (tensor.detach().double().flatten(1) for tensor in (stands, held))
    factors = (a * b).sum(1) / a.square().sum(1).clamp(min=1e-300)
    return factors if bool(((b - a * factors[:, None]).abs() <= 1e-5 * b.abs().amax(1, keepdim=True)).all()) else None


def _write(graph: Graph, result: Graph, twin: nn.Module, target: nn.Module) -> None:
    """Put every tensor that a pass has changed into the module."""
    import torch

    from sparsecc.graph.fx.computed import write

    stands, before, after = _tensors(twin), _tensors(graph.module), _tensors(result.module)  # type: ignore[attr-defined]
    for full, old in before.items():
        new = after.get(full)
        if new is None or new is old or torch.equal(new, old):
            continue
        factors = _factors(stands[full], old) if full in stands else None
        if factors is None:
            raise UserError(f"{full}: is changed by the recipe, and no tensor of the model; leave its layer out with ignore")
        path, _, name = full.rpartition(".")
        refused = write(target.get_submodule(path), name, _unfolded(stands[full], old, new, factors))
        if refused is not None:
            raise UserError(str(refused.at(path)))


def _unfolded(stands: Tensor, old: Tensor, new: Tensor, factors: Tensor) -> Tensor:
    """What the module's tensor has to be for the graph's to be the new one; where they were equal they are to the bit."""
    import torch

    rows = factors.reshape(-1, *(1,) * (new.dim() - 1))
    divided = torch.where(rows != 0, new.double() / rows, stands.double()).to(stands.dtype)
    value = torch.where(new == old, stands, divided if bool((factors != 1).any()) else new.to(stands.dtype))
    return torch.where((new == 0) & (rows != 0), torch.zeros_like(value), value).detach()


def _require_change(outcomes: list[tuple[Pass, PassResult]], left: Mapping[str, Refused]) -> None:
    if any(result.modified for _, result in outcomes):
        return
    refused = [str(reason.at(name)) for name, reason in left.items()]
    refused += [str(match.refused) for _, result in outcomes for match in result.matches if match.refused]
    raise UserError(f"no layer was pruned: {'; '.join(refused[:3]) or 'the model has none'}")


@contextmanager
def _undone(module: nn.Module) -> Iterator[None]:
    """The module as it was where something fails."""
    import torch

    before = [(tensor, tensor.detach().clone()) for tensor in (*module.parameters(), *module.buffers())]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
        raise


def _require_same(target: nn.Module, example: Any, result: Graph) -> None:
    """Raises SparseccError where the module gives something else than the graph that was pruned: its trace is not all that it does."""
    from sparsecc.graph.fx.untraced import outputs

    expected, found = result.run(in_order(result.inputs, example)).outputs, outputs(target, example)
    if len(found) != len(expected):
        raise SparseccError(f"the module gives {len(found)} outputs and its pruned trace {len(expected)}; nothing was changed")
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        check = compared(_numbers(ours), _numbers(theirs), f"output {number}")
        if not check.max_rel <= _TOLERANCE.get(str(theirs.dtype).removeprefix("torch."), _COARSE):
            how = check.reason or f"output {number} by {check.max_rel:.2g} of its largest number"
            raise SparseccError(f"the module gives outputs that differ from those of its pruned trace: {how}; nothing was changed")


def _numbers(tensor: Tensor) -> np.ndarray:
    """As numpy has them."""
    tensor = tensor.detach().cpu()
    return (tensor if tensor.is_complex() else tensor.double()).numpy()
