"""A host of a few layers in memory, so that the tests of passes need neither torch.export nor onnx."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, TypeVar

import networkx as nx
import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.errors import Refused
from sparsecc.graph.base import ALL, Graph, Run, Targets, TensorSpec, matches
from sparsecc.graph.channels import Channels
from sparsecc.graph.sites import Attention, Conv2d, Linear, Mlp, Site, Unseen, WeightSite
from sparsecc.ops.base import Operator, SiteOp

S = TypeVar("S", bound=Site)


class FakeGraph(Graph):
    """Every layer sees the model's input; the outputs are the layers' in order."""

    host = where = "fake"

    def __init__(self, sites: Sequence[WeightSite], unseen: Sequence[Unseen] = ()) -> None:
        self._unseen = tuple(unseen)
        self._sites = {site.name: site for site in sites}
        self._rank = 4 if sites and isinstance(sites[0], Conv2d) else 2
        self.edits: list[str] = []

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("x", tuple(f"axis{i}" for i in range(self._rank)), "float32"),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return ()

    def sites(self, kind: type[S] = Site, targets: Targets = ALL) -> list[S]:
        return [site for site in self._sites.values() if isinstance(site, kind) and matches(site, targets)]

    def unseen(self) -> list[Unseen]:
        return list(self._unseen)

    def _now(self, site: Site) -> Site | None:
        return self._sites.get(site.name)

    def _set_weight(self, site: WeightSite, weight: Tensor) -> None:
        assert weight.dtype == site.weight.dtype
        self._sites[site.name] = replace(self._sites[site.name], stored=weight)
        self.edits.append(site.name)

    def _set_bias(self, site: WeightSite, bias: Tensor) -> None:
        self._sites[site.name] = replace(self._sites[site.name], bias=bias)

    def _source(self, site: Linear) -> str:
        return "x"

    def _gather_inputs(self, site: Linear, order: Tensor) -> None:
        raise NotImplementedError

    def _replace(self, site: Site, op: Operator) -> None:
        assert isinstance(site, WeightSite)
        assert isinstance(op, SiteOp)
        self._sites[site.name] = replace(site, stored=op.stored, bias=op.bias)
        self.edits.append(site.name)

    def _channels(self, site: Mlp | Attention) -> Refused:
        return Refused("a fake has none")

    def _narrow(self, channels: Channels, units: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        raise NotImplementedError

    def run(self, inputs: Sequence[Any] | Mapping[str, Any], taps: Sequence[str] = ()) -> Run:
        assert not isinstance(inputs, Mapping)
        return Run(tuple(_forward(site, inputs[0]) for site in self._sites.values()), dict.fromkeys(taps, (inputs[0],)))

    came = "itself"

    def _as_it_came(self, samples: Sequence[Sequence[Any]]) -> list[list[Any]]:
        return [list(self.run(sample).outputs) for sample in samples]

    def walk(
        self, inputs: Sequence[Sequence[Any] | Mapping[str, Any]], taps: Sequence[str]
    ) -> Iterator[tuple[str, list[tuple[Tensor, ...]]]]:
        yield from ((name, [(given[0],) for given in inputs]) for name in self._sites if name in taps)  # type: ignore[index]

    def embeddings(self) -> dict[int, Tensor]:
        return {}

    def tensors(self) -> list[Tensor]:
        return [tensor for site in self._sites.values() for tensor in (site.weight, site.bias) if tensor is not None]

    def site_graph(self) -> nx.DiGraph:
        graph = nx.DiGraph()
        graph.add_nodes_from(self._sites)
        return graph

    def copy(self) -> FakeGraph:
        return FakeGraph(tuple(self._sites.values()), self._unseen)

    def save(self, path: str | PathLike[str]) -> None:
        raise NotImplementedError


def _forward(site: WeightSite, x: Tensor) -> Tensor:
    if isinstance(site, Conv2d):
        top, left, bottom, right = site.padding
        padded = functional.pad(x, (left, right, top, bottom))
        return functional.conv2d(padded, site.weight, site.bias, site.stride, 0, site.dilation, site.groups)
    return functional.linear(x, site.weight, site.bias)


def linear(name: str, rows: int = 32, cols: int = 64, seed: int = 0, **fields: Any) -> Linear:
    weight = fields.pop("stored", None)
    if weight is None:
        weight = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))
    return Linear(name=name, stored=weight, **fields)


def conv(name: str, out: int = 16, channels: int = 8, kernel: int = 3, groups: int = 1, **fields: Any) -> Conv2d:
    weight = torch.randn(out, channels // groups, kernel, kernel, generator=torch.Generator().manual_seed(7))
    return Conv2d(name=name, stored=weight, kernel=(kernel, kernel), groups=groups, **fields)
