"""A torch module whose layers are read off its modules, without a trace: for what looks at weights alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, NoReturn, TypeVar

import networkx as nx
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from sparsecc.errors import Refused, UserError
from sparsecc.graph.base import ALL, Graph, Run, Targets, TensorSpec, matches
from sparsecc.graph.channels import Channels
from sparsecc.graph.fx.computed import deep_copy
from sparsecc.graph.fx.evaluating import evaluating
from sparsecc.graph.inputs import as_tensor
from sparsecc.graph.sites import Attention, Conv1d, Conv2d, Linear, Mlp, Site, Unseen, WeightSite
from sparsecc.ops.base import Operator

S = TypeVar("S", bound=Site)


Layer = nn.Linear | nn.Conv1d | nn.Conv2d


def layers_of(model: nn.Module) -> dict[str, Layer]:
    """Linear modules and convolutions by their path; a model that is one itself goes by its kind."""
    return {name or type(module).__name__: module for name, module in model.named_modules() if isinstance(module, Layer)}


def owners_of(model: nn.Module) -> Counter[int]:
    """How many modules hold a parameter, by its id."""
    return Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))


def site_of(name: str, module: Layer, shared: bool) -> WeightSite:
    if isinstance(module, nn.Linear):
        return Linear(name=name, stored=module.weight, shared=shared)
    if isinstance(module, nn.Conv1d):
        return Conv1d(name=name, stored=module.weight, shared=shared, kernel=(1, module.kernel_size[0]), groups=module.groups)
    kh, kw = module.kernel_size
    return Conv2d(name=name, stored=module.weight, shared=shared, kernel=(kh, kw), groups=module.groups)


class UntracedGraph(Graph):
    """module: holds the weights, each a parameter of its own; a copy shares them until they are replaced. What needs inputs is refused."""

    host = "torch"

    def __init__(self, module: nn.Module) -> None:
        self.module = self.came = module
        self.where = type(module).__name__

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return ()

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return ()

    def sites(self, kind: type[S] = Site, targets: Targets = ALL) -> list[S]:
        """In the order in which the model holds them."""
        owners, names = owners_of(self.module), {id(tensor): name for name, tensor in self.module.named_parameters()}
        found = []
        for name, layer in layers_of(self.module).items():
            if is_lazy(layer.weight):
                raise UserError(f"layer '{name}': its weight has no shape yet; run a batch through the model first")
            site = site_of(name, layer, owners[id(layer.weight)] > 1)
            bias = None if layer.bias is None else layer.bias.detach()
            found.append(replace(site, stored=layer.weight.detach(), bias=bias, weight_name=names[id(layer.weight)]))
        return [site for site in found if isinstance(site, kind) and matches(site, targets)]

    def unseen(self) -> list[Unseen]:
        """Parameters of more than one dimension that are no layer's weight."""
        seen = {id(layer.weight) for layer in layers_of(self.module).values()}
        found = [
            (f"{path}.{name}" if path else name, type(module).__name__, tensor)
            for path, module in self.module.named_modules()
            for name, tensor in module.named_parameters(recurse=False)
            if tensor.dim() > 1 and id(tensor) not in seen
        ]
        return [
            Unseen(
                name=name,
                kind=kind,
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                nbytes=tensor.nbytes,
                sparsity=1 - int(tensor.count_nonzero()) / max(1, tensor.numel()),
                reason="without example inputs only Linear and convolution modules are looked at",
            )
            for name, kind, tensor in found
        ]

    def _now(self, site: Site) -> Site | None:
        return next((found for found in self.sites() if found.name == site.name), None)

    def _set_weight(self, site: WeightSite, weight: Tensor) -> None:
        layer = layers_of(self.module)[site.name]
        layer.weight = nn.Parameter(weight.to(layer.weight), layer.weight.requires_grad)

    def _set_bias(self, site: WeightSite, bias: Tensor) -> None:
        layer = layers_of(self.module)[site.name]
        assert layer.bias is not None
        layer.bias = nn.Parameter(bias.to(layer.bias), layer.bias.requires_grad)

    def copy(self) -> UntracedGraph:
        return UntracedGraph(deep_copy(self.module, {id(tensor): tensor for tensor in self.tensors()}))

    def tensors(self) -> Iterable[Tensor]:
        return (*self.module.parameters(), *self.module.buffers())

    def embeddings(self) -> dict[int, Tensor]:
        return {}

    def _channels(self, site: Mlp | Attention) -> Refused:
        return Refused("nothing is known of what reads it without example inputs")

    def run(self, inputs: Sequence[Any] | Mapping[str, Any], taps: Sequence[str] = ()) -> Run:
        self._refuse()

    def _as_it_came(self, samples: Sequence[Sequence[Any]]) -> list[list[Any]]:
        self._refuse()

    def walk(
        self, inputs: Sequence[Sequence[Any] | Mapping[str, Any]], taps: Sequence[str]
    ) -> Iterator[tuple[str, list[tuple[Tensor, ...]]]]:
        self._refuse()

    def _source(self, site: Linear) -> None:
        self._refuse()

    def _gather_inputs(self, site: Linear, order: Tensor) -> None:
        self._refuse()

    def _replace(self, site: Site, op: Operator) -> None:
        self._refuse()

    def _narrow(self, channels: Channels, units: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self._refuse()

    def site_graph(self) -> nx.DiGraph:
        self._refuse()

    def save(self, path: str | PathLike[str]) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UserError(f"example_inputs: needed to trace {self.where}, for a recipe that looks at more than weights")


@torch.no_grad()
def outputs(model: nn.Module, example: Any) -> list[Tensor]:
    """The tensors that a module gives in eval mode for a tuple, a dict by name or a tensor; it keeps its mode."""
    args, kwargs = (
        ((), dict(example)) if isinstance(example, Mapping) else (tuple(example) if isinstance(example, list | tuple) else (example,), {})
    )
    device = next(model.parameters(), torch.zeros(())).device
    args, kwargs = pytree.tree_map(lambda leaf: _placed(leaf, device), (args, kwargs))
    with evaluating(model):
        return [leaf for leaf in pytree.tree_leaves(model(*args, **kwargs)) if isinstance(leaf, Tensor)]


def _placed(leaf: Any, device: torch.device) -> Any:
    return as_tensor(leaf, "an example input").to(device) if isinstance(leaf, Tensor | np.ndarray) else leaf
