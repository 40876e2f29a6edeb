"""What holds for every pass on every host. Each host has a test file of its own, so that two processes can share the work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

from sparsecc.calibration.context import Context
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Mlp
from sparsecc.passes.base import Match, PassResult
from sparsecc.passes.prune import Prune
from tests.laws.hosts import graph, model, weights
from tests.laws.passes import CASES, Case

FEW = 16  # gradients of a layer; 128 are for models larger than these


def cases_of(host: str) -> pytest.MarkDecorator:
    """Every case that a host can run, with every model on which it works."""
    found = [pytest.param(case, name, id=f"{name}-{case.name}") for case in CASES if case.runs_on(host) for name in case.on]
    return pytest.mark.parametrize(("case", "name"), found)


@cache
def with_zeros(host: str, name: str) -> Graph:
    """A model in which every pass finds something to do: some layers are 2:4, others dense."""
    return Prune(pattern="2:4", targets=("re:.*(out|fc1|head|dilated).*",), seed=2).apply(graph(host, name)).graph


@dataclass(frozen=True)
class Tried:
    """A case on a model. looked: what `find` listed, in words.  seen: the weights after it.  by_hand: the weights after its matches were
    rewritten one by one.  applied: by the pass itself, on the same graph."""

    looked: list[tuple[str, str]]
    seen: dict[str, Any]
    by_hand: dict[str, Any]
    applied: PassResult


@cache
def tried(host: str, name: str, case: Case) -> Tried:
    """Made once, and read by all laws: some criteria take seconds."""
    copy = with_zeros(host, name).copy()
    matches = list(case.step.find(copy, calibrated(host, name)))
    looked, seen = in_words(matches), weights(copy)
    for match in matches:
        if match.refused is None:
            case.step.rewrite(copy, match.site, match.action)
    return Tried(looked, seen, weights(copy), case.step.apply(with_zeros(host, name), calibrated(host, name)))


def calibrated(host: str, name: str) -> Context:
    return Context(calibration=[(model(name)[1],)], original=graph(host, name))


def in_words(matches: list[Match[Any, Any]]) -> list[tuple[str, str]]:
    return [(match.site.name, str(match.refused or match.action)) for match in matches]


def layers_of(match: Match[Any, Any]) -> tuple[str, ...]:
    """Names of the sites whose weights a match may change."""
    site = match.site
    return match.layers or ((site.first.name, site.second.name) if isinstance(site, Mlp) else (site.name,))


def same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two `weights` are the same to the byte."""
    return list(first) == list(second) and all(
        torch.equal(first[name][0], second[name][0]) and _same_packed(first[name][1], second[name][1]) for name in first
    )


def moved(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """How far the weights are from each other."""
    return sum(float((weight - second[name][0]).double().norm()) for name, (weight, _) in first.items())


def _same_packed(first: Any, second: Any) -> bool:
    if first is None or second is None:
        return first is second
    return first[0] == second[0] and all(torch.equal(tensor, second[1][key]) for key, tensor in first[1].items())


class PassLaws:
    """Subclasses name their host, and are parametrized by `cases_of` it."""

    host: str

    @pytest.fixture(autouse=True)
    def _few_gradients(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sparsecc.calibration.gradients.SAMPLES", FEW)

    def test_it_does_something_where_it_says_so(self, case: Case, name: str) -> None:
        before, result = weights(with_zeros(self.host, name)), tried(self.host, name, case).applied
        refused = [f"{match.site.name}: {match.refused}" for match in result.matches if match.refused is not None]
        assert len(refused) < len(result.matches), f"nothing is done in {name!r}: {refused}; name in `on` the models on which it works"
        assert result.modified
        assert not same(weights(result.graph), before)

    def test_to_find_is_to_look_only(self, case: Case, name: str) -> None:
        found = tried(self.host, name, case)
        assert same(found.seen, weights(with_zeros(self.host, name)))
        assert found.looked == in_words(list(found.applied.matches))

    def test_a_pass_is_pure_deterministic_and_twice_is_once(self, case: Case, name: str) -> None:
        found = tried(self.host, name, case)
        once = found.applied
        assert same(weights(with_zeros(self.host, name)), found.seen)
        assert same(weights(once.graph), found.by_hand)
        twice = case.step.apply(once.graph, calibrated(self.host, name))
        if case.settles:
            assert not twice.modified
            assert same(weights(twice.graph), found.by_hand)
        else:
            assert moved(found.by_hand, weights(twice.graph)) < moved(found.seen, found.by_hand)

    def test_what_is_refused_stays_as_it_was_and_says_why(self, case: Case, name: str) -> None:
        held, result = weights(with_zeros(self.host, name)), tried(self.host, name, case).applied
        after = weights(result.graph)
        assert len({match.site.name for match in result.matches}) == len(result.matches)
        untouched = set(held) - {layer for match in result.matches if match.refused is None for layer in layers_of(match)}
        for match in result.matches:
            if match.refused is not None:
                assert match.refused.site == match.site.name
                assert match.refused.reason
        for site in untouched:
            assert same({site: held[site]}, {site: after[site]})
