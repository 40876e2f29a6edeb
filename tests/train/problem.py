"""A planted problem: a small network with known zeros makes the outputs that another one learns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsecc import train
from sparsecc.train._handle import Handle

INPUTS, NEURONS, OUTPUTS = 48, 32, 16
DENSITY = 0.2


def _planted(rows: int, cols: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, cols, generator=generator) * (torch.rand(rows, cols, generator=generator) < DENSITY)


FIRST, SECOND = _planted(NEURONS, INPUTS, 1), _planted(OUTPUTS, NEURONS, 2)


def batches(count: int, seed: int = 9) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        x = torch.randn(128, INPUTS, generator=generator)
        yield x, torch.relu(x @ FIRST.T) @ SECOND.T


def student(seed: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(INPUTS, NEURONS), nn.ReLU(), nn.Linear(NEURONS, OUTPUTS))


def weight_of(model: nn.Module, layer: str = "0") -> Tensor:
    """As the forward pass sees it."""
    found = model.get_submodule(layer).weight
    assert isinstance(found, Tensor)
    return found


def adam(model: nn.Module) -> Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)


def attached(method: str, model: nn.Module | None = None, optimizer: Optimizer | None = None, **fields: Any) -> tuple[nn.Module, Handle]:
    """The model and its masks; every layer takes part."""
    model = student() if model is None else model
    recipe = {"method": method, "steps": 40, "min_weights": 0, **fields}
    return model, train.attach(model, recipe, optimizer=adam(model) if optimizer is None else optimizer)


def step(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> None:
    (model(x) - y).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def loss_after(steps: int, method: str, **fields: Any) -> float:
    """Of a student trained so, on inputs that it has not seen, over the variance of the outputs."""
    model = student()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    _, handle = attached(method, model, optimizer, steps=steps, **fields)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for x, y in batches(steps):
        step(model, optimizer, x, y)
        schedule.step()
    handle.finish()
    [(x, y)] = batches(1, seed=99)
    with torch.no_grad():
        return float((model(x) - y).square().mean() / y.var())
