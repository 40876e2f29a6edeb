"""What holds for every recipe that prunes and packs, on every host."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from sparsecc.graph.base import Graph
from sparsecc.graph.sites import WeightSite
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context
from sparsecc.recipe import Recipe
from tests.laws.hosts import HOSTS, MODELS, graph, model, outputs
from tests.laws.passes import RECIPES
from tests.tolerance import assert_close

every_host = pytest.mark.parametrize("host", HOSTS)
every_model = pytest.mark.parametrize("name", MODELS)
every_recipe = pytest.mark.parametrize("recipe", RECIPES)


@cache
def run(host: str, name: str, recipe: str, packed: bool = True) -> Graph:
    """A model after a recipe, whose last pass packs."""
    passes = RECIPES[recipe] if packed else RECIPES[recipe][:-1]
    return pipeline.run(graph(host, name), Recipe.load({"passes": passes}), Context())[0]


def masked_module(name: str, of: Graph) -> nn.Module:
    """The oracle: the original torch module with the dense weights of a graph."""
    module = copy.deepcopy(model(name)[0])
    with torch.no_grad():
        for site in of.sites(WeightSite):
            module.get_submodule(site.name).weight.copy_(site.weight)  # type: ignore[union-attr, operator]
    return module


@every_host
@pytest.mark.parametrize("name", ["transformer", "convolutions"])
@every_recipe
def test_outputs_are_those_of_the_masked_dense_model(host: str, name: str, recipe: str) -> None:
    after = run(host, name, recipe)
    assert any(site.packed is not None for site in after.sites(WeightSite))
    with torch.no_grad():
        expected = masked_module(name, after)(model(name)[1])
    assert_close(outputs(after, name)[0], expected)
    assert not torch.equal(expected, model(name)[0](model(name)[1]))


@every_host
@every_model
@every_recipe
def test_packing_changes_no_output(host: str, name: str, recipe: str) -> None:
    pruned, packed = run(host, name, recipe, packed=False), run(host, name, recipe)
    assert_close(outputs(packed, name)[0], outputs(pruned, name)[0])
    for before, after in zip(pruned.sites(WeightSite), packed.sites(WeightSite), strict=True):
        assert (before.name, before.kind, before.activation) == (after.name, after.kind, after.activation)
        assert torch.equal(before.weight, after.weight)


@every_model
@every_recipe
def test_hosts_agree_on_masks_formats_and_outputs(name: str, recipe: str) -> None:
    found = {host: run(host, name, recipe) for host in HOSTS}
    layers = {host: {site.name: site for site in of.sites(WeightSite)} for host, of in found.items()}
    first, *others = HOSTS
    for other in others:
        assert list(layers[first]) == list(layers[other])
        for site, twin in zip(layers[first].values(), layers[other].values(), strict=True):
            assert torch.equal(site.weight != 0, twin.weight != 0)
            assert (site.packed and site.packed.format) == (twin.packed and twin.packed.format)
            assert_close(twin.weight, site.weight)
        assert_close(outputs(found[other], name)[0], outputs(found[first], name)[0])


def test_a_tensor_is_only_as_close_as_it_says() -> None:
    one = torch.ones(3)
    with pytest.raises(AssertionError, match="off by"):
        assert_close(one + 1e-3, one)
    with pytest.raises(AssertionError, match="only tighten"):
        assert_close(one, one, at_most=1.0)
    close: Tensor = one * (1 + 1e-7)
    assert_close(close, one)
