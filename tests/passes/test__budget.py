from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from sparsecc.allocations.base import Limit
from sparsecc.errors import RecipeError
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import WeightSite
from sparsecc.passes._budget import limit_of, nbytes
from sparsecc.passes.base import Context
from sparsecc.passes.pack import Pack
from sparsecc.passes.prune import Prune
from sparsecc.patterns import parse
from tests.passes.fake import FakeGraph, linear


@pytest.mark.parametrize(
    ("written", "wanted"),
    [(20e6, 20_000_000), (5000, 5000), ("20MB", 20_000_000), ("1.5 kB", 1500), ("20e6", 20_000_000), ("2GB", 2 * 10**9), ("7 B", 7)],
)
def test_bytes_are_written_as_numbers_or_with_a_unit(written: Any, wanted: int) -> None:
    assert limit_of({"bytes": written}) == Limit(wanted)


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({}, r"^budget: empty; write it as \{bytes: 20MB\}"),
        ({"byte": 1e6}, "^budget: no 'byte'; did you mean 'bytes'"),
        ({"bytes": 1e6, "milliseconds": 3}, "^budget: bytes and milliseconds at once"),
        ({"milliseconds": 0}, "^budget: 0 is no number of milliseconds above zero"),
        ({"milliseconds": "4 ms"}, "^budget: '4 ms' is no number of milliseconds"),
        ({"bytes": "20 megs"}, "^budget: '20 megs' is no number of bytes"),
        ({"bytes": 0}, "^budget: 0 is no number of bytes above zero"),
        ({"bytes": -5e6}, "^budget: -5000000.0 is no number"),
        ({"bytes": float("inf")}, "^budget: inf is no number"),
    ],
)
def test_what_is_no_budget(budget: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        limit_of(budget)


@pytest.mark.parametrize("pattern", ["unstructured", "4x1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_a_layer_takes_is_what_pack_makes_of_it(pattern: str, dtype: torch.dtype) -> None:
    """Random masks: no other format than the pattern's holds them in fewer bytes."""
    for sparsity in (0.0, 0.2, 0.5, 0.9):
        site = linear("a", stored=torch.randn(64, 128, generator=torch.Generator().manual_seed(1)).to(dtype))
        pruned = Prune(pattern=pattern, sparsity=sparsity, criterion="random").apply(FakeGraph([site])).graph
        [packed] = Pack().apply(pruned).graph.sites(type(site))
        taken = packed.weight.numel() * dtype.itemsize if packed.packed is None else packed.packed.nbytes
        units = 64 * 128 // parse(pattern).unit_size
        assert nbytes(site, parse(pattern), units - round(sparsity * units)) == taken


@pytest.mark.parametrize("allocation", ["uniform", "erk", "global", "owl", "sensitivity"])
@pytest.mark.parametrize("pattern", ["unstructured", "4x1"])
def test_packed_layers_stay_within_the_budget_and_come_near(pattern: str, allocation: str) -> None:
    sites = [linear("a", 64, 64), linear("b", 96, 64, seed=3)]
    x = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    step = Prune(pattern=pattern, allocation=allocation, budget={"bytes": 20_000}, criterion="random")
    pruned = step.apply(FakeGraph(sites), Context(calibration=[(x,)])).graph
    packed = Pack().apply(pruned).graph.sites(type(sites[0]))
    taken = sum(site.packed.nbytes if site.packed else site.weight.numel() * 4 for site in packed)
    assert 19_000 < taken <= 20_000


def test_a_budget_that_cannot_be_met_names_the_nearest() -> None:
    graph = FakeGraph([linear("a", 64, 64)])
    with pytest.raises(RecipeError, match=r"^budget: 300 bytes cannot be met, the nearest that can is (\d+)$") as raised:
        Prune(budget={"bytes": 300}).apply(graph)
    nearest = int(str(raised.value).rsplit(maxsplit=1)[-1])
    assert Prune(budget={"bytes": nearest}).apply(graph).modified


def test_a_budget_for_all_dense_bytes_prunes_nothing() -> None:
    result = Prune(budget={"bytes": 4 * 64 * 64}).apply(FakeGraph([linear("a", 64, 64)]))
    assert not result.modified


def test_milliseconds_are_those_of_the_clock() -> None:
    """Of two layers alike the one that gets faster sooner is pruned as far as both have to be."""
    sites = [linear("a", 64, 64), linear("b", 64, 64, seed=3)]
    asked: list[object] = []

    def clock(graph: Graph, pattern: str, names: Sequence[str]) -> dict[str, Callable[[float], float]]:
        asked.append((pattern, tuple(names)))
        return {"a": lambda share: 2.0 * share, "b": lambda share: 4.0 * share}

    step = Prune(pattern="4x1", budget={"milliseconds": 3.0})
    pruned = step.apply(FakeGraph(sites), Context(clock=clock)).graph.sites(WeightSite)
    assert asked == [("4x1", ("a", "b"))]
    kept = [float((site.weight != 0).float().mean()) for site in pruned]
    assert 2.97 < 2 * kept[0] + 4 * kept[1] <= 3.0
    with pytest.raises(RecipeError, match=r"^budget: 0.01 milliseconds cannot be met, the nearest that can is 0.059"):
        Prune(pattern="4x1", budget={"milliseconds": 0.01}).apply(FakeGraph(sites), Context(clock=clock))


def test_milliseconds_need_a_machine() -> None:
    with pytest.raises(RecipeError, match="compile"):
        Prune(budget={"milliseconds": 3.0}).apply(FakeGraph([linear("a", 64, 64)]))
