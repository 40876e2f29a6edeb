"""A walk over a graph shows what a run shows, with the weights that were set on the way."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from sparsecc.errors import InputError, UserError
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Attention, Site, WeightSite
from tests.laws.hosts import HOSTS, MODELS, graph, samples
from tests.tolerance import assert_close

every_host = pytest.mark.parametrize("host", HOSTS)
every_model = pytest.mark.parametrize("name", MODELS)


def taps_of(changed: Graph, name: str, taps: list[str]) -> list[Mapping[str, tuple[Tensor, ...]]]:
    return [changed.run(sample, taps).taps for sample in samples(name)]


@every_host
@every_model
def test_what_enters_each_site_in_execution_order(host: str, name: str) -> None:
    whole = graph(host, name)
    sites = [site.name for site in whole.sites() if isinstance(site, (WeightSite, Attention))]
    expected, seen = taps_of(whole, name, sites), []
    for site, entering in whole.walk(samples(name), sites[::-1]):
        seen.append(site)
        assert len(entering) == len(samples(name))
        for tensors, run in zip(entering, expected, strict=True):
            for got, wanted in zip(tensors, run[site], strict=True):
                assert_close(got, wanted)
    assert seen == sites


@every_host
@every_model
def test_a_weight_that_is_set_counts_from_there_on(host: str, name: str) -> None:
    changed, reference = graph(host, name).copy(), graph(host, name).copy()
    sites = [site.name for site in changed.sites(WeightSite)]
    for site, entering in changed.walk(samples(name), sites):
        for got, run in zip(entering, taps_of(reference, name, [site]), strict=True):
            assert_close(got[0], run[site][0])
        for one in (changed, reference):
            [found] = one.sites(WeightSite, (site,))
            one.set_weight(found, found.weight * 0.5)
    assert_close(changed.run(samples(name)[0]).outputs[0], reference.run(samples(name)[0]).outputs[0])


@every_host
def test_a_walk_may_end_early_and_changes_nothing(host: str) -> None:
    whole = graph(host, "transformer")
    before = whole.run(samples("transformer")[0]).outputs[0]
    for _ in whole.walk(samples("transformer"), [site.name for site in whole.sites(WeightSite)]):
        break
    assert torch.equal(whole.run(samples("transformer")[0]).outputs[0], before)
    assert list(whole.walk(samples("transformer"), [])) == []


@every_host
def test_what_run_refuses(host: str) -> None:
    whole = graph(host, "transformer")
    first = whole.sites(Site)[0].name
    with pytest.raises(UserError, match="nowhere"):
        list(whole.walk(samples("transformer"), ["nowhere"]))
    with pytest.raises(InputError):
        list(whole.walk([(torch.zeros(3),)], [first]))
