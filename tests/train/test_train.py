"""`attach` as users call it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import sparsecc
from sparsecc.train.rigl import Rigl
from tests.train.problem import batches, weight_of


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 48))


def test_a_loop_that_knows_nothing_of_masks(tmp_path: Path) -> None:
    recipe = tmp_path / "train.yaml"
    recipe.write_text("method: rigl\ntargets: [Conv2d]\npattern: '1x4'\nsparsity: 0.5\nsteps: 12\nevery: 2\n")
    network = model()
    optimizer = torch.optim.AdamW(network.parameters())
    handle = sparsecc.train.attach(network, recipe, optimizer=optimizer)
    for x, _ in batches(12):
        network(x.reshape(32, 4, 6, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    handle.finish()
    weight = weight_of(network)
    kept = (weight != 0).reshape(32, 4, 9).sum(dim=1)  # the four input channels of each tap
    assert set(kept.unique().tolist()) == {0, 4}
    assert int((kept == 4).sum()) == 32 * 9 // 2
    assert (weight_of(network, "4") != 0).all()


def test_a_recipe_may_be_the_method_itself() -> None:
    network = model()
    handle = sparsecc.train.attach(network, Rigl(steps=10, sparsity=0.9), optimizer=torch.optim.SGD(network.parameters(), lr=0.1))
    assert [round(layer.sparsity, 3) for layer in handle.layers] == [0.9, 0.9]
    assert str(handle).splitlines()[1] == "4  48x32  unstructured, 90.0% zeros"
