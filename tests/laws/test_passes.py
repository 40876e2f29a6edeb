"""What holds for every pass on every host."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsecc.calibration.context import Context
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Mlp, WeightSite
from sparsecc.passes import pipeline
from sparsecc.passes.base import Match, Pass
from sparsecc.passes.prune import Prune
from sparsecc.recipe import Recipe
from tests.laws.hosts import HOSTS, MODELS, graph, model, outputs, weights
from tests.laws.passes import NEED_GRADIENTS, PASSES, RECIPES
from tests.tolerance import assert_close

every_host = pytest.mark.parametrize("host", HOSTS)
every_model = pytest.mark.parametrize("name", MODELS)
PARAMS = [
    pytest.param(host, step, id=f"{name}{i}{kind}-{host}")
    for kind, passes, hosts in (("", PASSES, list(HOSTS)), ("-gradients", NEED_GRADIENTS, ["fx"]))
    for name, steps in passes.items()
    for i, step in enumerate(steps)
    for host in hosts
]
every_pass = pytest.mark.parametrize(("host", "step"), PARAMS)  # on every host that can run it
every_recipe = pytest.mark.parametrize("recipe", RECIPES)


@cache
def with_zeros(host: str, name: str) -> Graph:
    """A graph in which every pass finds something to do."""
    return Prune(pattern="2:4", targets=("re:.*(out|fc1|head|dilated).*",), seed=2).apply(graph(host, name)).graph


@cache
def run(host: str, name: str, recipe: str, packed: bool = True) -> Graph:
    """A model after a recipe, whose last pass packs."""
    passes = RECIPES[recipe] if packed else RECIPES[recipe][:-1]
    return pipeline.run(graph(host, name), Recipe.load({"passes": passes}), Context())[0]


def calibrated(name: str, original: Graph | None = None) -> Context:
    return Context(calibration=[(model(name)[1],)], original=original)


def layers_of(match: Match) -> tuple[str, ...]:
    """Names of the sites whose weights a match may change."""
    site = match.site
    return match.layers or ((site.first.name, site.second.name) if isinstance(site, Mlp) else (site.name,))


def same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two `weights` are the same to the byte."""
    return list(first) == list(second) and all(
        torch.equal(first[name][0], second[name][0]) and _same_packed(first[name][1], second[name][1]) for name in first
    )


def _same_packed(first: Any, second: Any) -> bool:
    if first is None or second is None:
        return first is second
    return first[0] == second[0] and all(torch.equal(tensor, second[1][key]) for key, tensor in first[1].items())


def masked_module(name: str, of: Graph) -> nn.Module:
    """The oracle: the original torch module with the dense weights of a graph."""
    module = copy.deepcopy(model(name)[0])
    with torch.no_grad():
        for site in of.sites(WeightSite):
            module.get_submodule(site.name).weight.copy_(site.weight)  # type: ignore[union-attr, operator]
    return module


@every_model
@every_pass
def test_a_pass_is_pure_deterministic_and_twice_is_once(host: str, name: str, step: Pass) -> None:
    before = with_zeros(host, name)
    held = weights(before)
    once, again = step.apply(before, calibrated(name, before)), step.apply(before, calibrated(name, before))
    assert same(weights(before), held)
    assert same(weights(once.graph), weights(again.graph))
    assert once.modified == (not same(weights(once.graph), held))
    twice = step.apply(once.graph, calibrated(name, before))
    assert not twice.modified
    assert same(weights(twice.graph), weights(once.graph))


@every_model
@every_pass
def test_what_is_refused_stays_as_it_was_and_says_why(host: str, name: str, step: Pass) -> None:
    before = with_zeros(host, name)
    held, result = weights(before), step.apply(before, calibrated(name))
    after = weights(result.graph)
    assert len({match.site.name for match in result.matches}) == len(result.matches)
    untouched = set(held) - {name for match in result.matches if match.refused is None for name in layers_of(match)}
    for match in result.matches:
        if match.refused is not None:
            assert match.refused.site == match.site.name
            assert match.refused.reason
    for site in untouched:
        assert same({site: held[site]}, {site: after[site]})


@every_model
@every_pass
def test_to_find_is_to_look_only(host: str, name: str, step: Pass) -> None:
    before = with_zeros(host, name)
    held = weights(before)
    looked = [(match.site.name, str(match.refused or match.action)) for match in step.find(before, calibrated(name))]
    assert same(weights(before), held)
    assert looked == [(match.site.name, str(match.refused or match.action)) for match in step.apply(before, calibrated(name)).matches]


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
