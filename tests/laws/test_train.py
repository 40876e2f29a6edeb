"""What holds for every method of training with masks."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from sparsecc import patterns, registry
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import WeightSite
from sparsecc.passes.pack import Pack
from sparsecc.train._handle import Handle
from sparsecc.train.base import Method
from tests.laws.members import examples
from tests.train.problem import INPUTS, adam, attached, batches, loss_after, step, student

every_recipe = pytest.mark.parametrize(("name", "fields"), [(name, {"every": 4, **fields}) for name, fields in examples("train")])
every_method = pytest.mark.parametrize("name", registry.members("train"))
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "adam": lambda p: Adam(p, lr=1e-2, weight_decay=0.1, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=1e-2, weight_decay=0.1),
    "sgd": lambda p: SGD(p, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=0.1),
    "rmsprop": lambda p: RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
}


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def run(model: nn.Module, optimizer: Optimizer, first: int, last: int) -> None:
    for x, y in list(batches(last))[first:]:
        step(model, optimizer, x, y)


def trained(name: str, fields: dict[str, Any], steps: int = 40) -> tuple[nn.Module, Handle]:
    model = student()
    optimizer = adam(model)
    _, handle = attached(name, model, optimizer, **fields)
    run(model, optimizer, 0, steps)
    return model, handle


@every_recipe
def test_zeros_in_the_pattern_exactly_as_many_as_asked_for(name: str, fields: dict[str, Any]) -> None:
    model, handle = trained(name, fields)
    handle.finish()
    pattern = patterns.parse(fields.get("pattern", "unstructured"))
    asked = fields.get("sparsity", pattern.fixed_sparsity)
    kept = units = 0
    for layer in handle.layers:
        keep = handle.state_dict()["masks"][layer.name]
        weight = linears(model)[layer.name].weight
        assert pattern.holds(keep) is None
        assert not weight[~keep].any()
        assert float((weight[keep] != 0).float().mean()) > 0.9
        assert layer.sparsity == pytest.approx(1 - float(keep.float().mean()))
        kept, units = kept + int(keep.sum()) // pattern.unit_size, units + keep.numel() // pattern.unit_size
        if name == "srigl":
            assert len(set(keep.sum(dim=1).tolist()) - {0}) == 1
            assert 0 <= keep.numel() - round(asked * keep.numel()) - int(keep.sum()) < len(keep)
        elif "allocation" not in fields:
            total = keep.numel() // pattern.unit_size
            assert int(keep.sum()) // pattern.unit_size == total - round(asked * total)
    assert name == "srigl" or abs(units - round(asked * units) - kept) <= 1


@every_method
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_zeros_survive_every_step_of_every_optimizer(name: str, optimizer: str) -> None:
    model = student()
    made = OPTIMIZERS[optimizer](model.parameters())
    _, handle = attached(name, model, made, steps=20, every=3, end=15, **({} if name == "srigl" else {"pattern": "1:4"}))
    for x, y in batches(20):
        step(model, made, x, y)
        if name != "cast" or handle.step >= 15:
            for layer, keep in handle.state_dict()["masks"].items():
                assert not linears(model)[layer].weight[~keep].any()


@every_recipe
def test_training_that_was_stopped_goes_on_to_the_bit(name: str, fields: dict[str, Any]) -> None:
    model = student()
    optimizer = adam(model)
    _, handle = attached(name, model, optimizer, **fields)
    run(model, optimizer, 0, 13)
    saved = deepcopy((model.state_dict(), optimizer.state_dict(), handle.state_dict()))
    run(model, optimizer, 13, 40)

    again = student(seed=8)
    other = adam(again)
    _, resumed = attached(name, again, other, **fields)
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    run(again, other, 13, 40)
    for mine, whole in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, whole)
    for layer, keep in handle.state_dict()["masks"].items():
        assert torch.equal(resumed.state_dict()["masks"][layer], keep)
    assert torch.equal(resumed.state_dict()["generator"], handle.state_dict()["generator"])


@cache
def loss_with_a_random_mask() -> float:
    return loss_after(400, "set", sparsity=0.75, start="random", every=400, end=400)


@every_method
def test_it_finds_better_masks_than_random_ones(name: str) -> None:
    assert loss_after(400, name, sparsity=0.75, every=10) < 0.7 * loss_with_a_random_mask()


@every_recipe
def test_nothing_is_left_but_zeros(name: str, fields: dict[str, Any]) -> None:
    model, handle = trained(name, fields)
    handle.finish()
    assert sorted(model.state_dict()) == sorted(student().state_dict())
    assert [type(module) for module in model] == [type(module) for module in student()]  # type: ignore[attr-defined]
    assert not any(parameter._backward_hooks for parameter in model.parameters())
    before, steps = [parameter.clone() for parameter in model.parameters()], handle.step
    handle.finish()
    for parameter, was in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, was)
    run(model, adam(model), 0, 1)
    assert handle.step == steps
    for layer, keep in handle.state_dict()["masks"].items():
        assert linears(model)[layer].weight[~keep].any()  # nothing holds them any more


@pytest.mark.parametrize("name", ["gmp", "srigl", "cast"])
def test_what_was_trained_packs_as_any_pruned_model(name: str) -> None:
    fields = {"sparsity": 0.7} if name == "srigl" else {"pattern": "1:4"}
    model, handle = trained(name, {"every": 4, **fields})
    handle.finish()
    x = torch.randn(4, INPUTS, generator=torch.Generator().manual_seed(5))
    result = Pack().apply(FxGraph.from_module(model, (x,)))
    assert all(match.refused is None for match in result.matches)
    packed = [site.packed for site in result.graph.sites(WeightSite)]
    if name != "srigl":  # a constant fan-in is csr, or one wide group of N:M
        assert [stored.format.key for stored in packed if stored] == ["nm:1:4", "nm:1:4"]
    torch.testing.assert_close(result.graph.run((x,)).outputs[0], model(x))


@every_recipe
def test_masks_change_on_their_days_only(name: str, fields: dict[str, Any]) -> None:
    model = student()
    optimizer = adam(model)
    _, handle = attached(name, model, optimizer, **{**fields, "every": 6, "end": 24})
    method = registry.create("train", name, Method, **{**fields, "every": 6, "end": 24, "steps": 40})
    changed = []
    for x, y in batches(40):
        before = handle.state_dict()["masks"]
        step(model, optimizer, x, y)
        if any(not torch.equal(keep, before[layer]) for layer, keep in handle.state_dict()["masks"].items()):
            changed.append(handle.step)
    assert set(changed) <= {at for at in range(41) if method.changes_at(at)}
    assert changed
