"""The hosts, and small models that each of them can hold."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.attention.dynamic import DynamicMap
from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Attention, WeightSite


class Transformer(nn.Module):
    """One block: attention, residuals, norms, an Mlp, and a head too odd for most patterns."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, 35)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (layer(x).reshape(batch, tokens, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = self.norm(x + self.out(mixed))
        return self.head(x + self.fc2(functional.gelu(self.fc1(x))))


class Convolutions(nn.Module):
    """k×k with stride, padding and dilation, pointwise, depthwise, a linear head; batch norms when asked for."""

    def __init__(self, norms: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16) if norms else nn.Identity()
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 64, 1, bias=False)
        self.dilated = nn.Conv2d(64, 32, 3, padding=2, dilation=2)
        self.head = nn.Linear(32, 48)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(self.pointwise(self.depthwise(x)))
        return self.head(functional.hardswish(self.dilated(x)).mean(dim=(2, 3)))


def _transformer() -> tuple[nn.Module, Tensor]:
    return Transformer(), torch.randn(2, 10, 32)


def _convolutions() -> tuple[nn.Module, Tensor]:
    return Convolutions(), torch.randn(2, 4, 12, 14)


def _with_norms() -> tuple[nn.Module, Tensor]:
    module = Convolutions(norms=True)
    assert isinstance(module.norm, nn.BatchNorm2d)
    module.norm.running_mean = torch.randn(16)
    module.norm.running_var = torch.rand(16) + 0.5
    return module, torch.randn(2, 4, 12, 14)


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "transformer": _transformer,
    "convolutions": _convolutions,
    "with_norms": _with_norms,
}


@cache
def model(name: str) -> tuple[nn.Module, Tensor]:
    """A model in eval mode and an input of it, the same on every call; not to be modified."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, x = MODELS[name]()
    return module.eval(), x


def samples(name: str) -> list[tuple[Tensor]]:
    """Two inputs of a model."""
    x = model(name)[1]
    return [(x,), (x.flip(0) * 0.5,)]


def given(host: str, module: nn.Module, x: Tensor) -> tuple[Any, tuple[Tensor] | None]:
    """A model and its example inputs as `sparsecc.compile` takes them from users of a host."""
    if host == "onnx":
        return torch.onnx.export(module, (x,), dynamo=True, verbose=False).model_proto, None  # type: ignore[union-attr]
    return module, (x,)


def _fx(module: nn.Module, x: Tensor) -> Graph:
    return FxGraph.from_module(module, (x,))


def _onnx(module: nn.Module, x: Tensor) -> Graph:
    program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    assert program is not None
    return OnnxGraph.from_proto(program.model_proto)


HOSTS: dict[str, Callable[[nn.Module, Tensor], Graph]] = {"fx": _fx, "onnx": _onnx}


@cache
def graph(host: str, name: str) -> Graph:
    """A model in a host; passes leave it as it is, so tests share it."""
    return HOSTS[host](*model(name))


def outputs(of: Graph, name: str) -> tuple[Tensor, ...]:
    """What a graph gives for the model's input."""
    return of.run((model(name)[1],)).outputs


def weights(of: Graph) -> dict[str, Any]:
    """Everything that a pass may change, by site: the dense weight and what is stored instead of it, or an attention's block map."""
    layers = {site.name: (site.weight.detach().clone(), _stored(site)) for site in of.sites(WeightSite)}
    return layers | {site.name: (torch.empty(0), _block_map(site)) for site in of.sites(Attention)}


def _block_map(site: Attention) -> tuple[str, dict[str, Tensor]] | None:
    found = site.block_map
    if isinstance(found, DynamicMap):
        return f"{found.grid} {found.rule}", {"required": found.required}
    return None if found is None else (str(found.grid), {"places": found.places(), "keep": found.keep})


def _stored(site: WeightSite) -> tuple[str, dict[str, Tensor]] | None:
    """Key and tensors; None for a dense weight."""
    return None if site.form is None else (site.form.key, dict(site.form.tensors))
