from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsecc.allocations.base import Limit
from sparsecc.errors import RecipeError, Refused, SparseccError
from sparsecc.pruning import Cut, Pruning, site_seed
from tests.passes.fake import conv, linear


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sparsity": 1.0}, r"^sparsity: 1.0 is not in \[0, 1\)"),
        ({"sparsity": -0.1}, "^sparsity"),
        ({"pattern": "2:4", "sparsity": 0.6}, "^sparsity: pattern 2:4 has 0.5"),
        ({"pattern": "2:4", "allocation": "erk"}, "^allocation: every layer has the same sparsity under 2:4"),
        ({"pattern": "2:4", "allocation": "sensitivity"}, "^allocation: every layer has the same sparsity under 2:4"),
        ({"sparsity": 0.9, "floor": 0.2}, r"^floor: 0.2 is not in \[0, 0.1\]"),
        ({"sparsity": 0.5, "limit": Limit(1e6)}, "^budget: is what decides the sparsity"),
        ({"pattern": "2:4", "limit": Limit(1e6)}, "^budget: 2:4 has one size"),
        ({"limit": Limit(1e6), "floor": 1.0}, r"^floor: 1.0 is not in \[0, 1\)"),
        ({"criterion": "magic"}, "^criterion: no 'magic'"),
        ({"refinement": "dsnt"}, "^refinement: no 'dsnt'; did you mean 'dsnot'"),
        (
            {"refinement": "dsnot", "criterion": "sparsegpt"},
            "^refinement: sparsegpt gives the weights that stay new values.* such as wanda",
        ),
        ({"refinement": "dsnot", "criterion": "obs"}, "^refinement: obs gives"),
        ({"refinement": "dsnot", "criterion": "chita"}, "^refinement: chita gives"),
        ({"allocation": "globl"}, "^allocation: no 'globl'; did you mean 'global'"),
        ({"rows": "fishr"}, "^rows: no 'fishr'; did you mean 'fisher'"),
        ({"compare": "outputs"}, "^compare: no 'outputs'; did you mean 'output'"),
        ({"compare": "layer", "pattern": "2:4"}, "^compare: 2:4 compares the weights of a group"),
        ({"pattern": "3:2"}, "^pattern: '3:2' cannot be"),
        ({"min_weights": -1}, "^min_weights"),
    ],
)
def test_impossible_fields(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        Pruning(**fields)


def test_the_sparsity_of_the_whole() -> None:
    assert Pruning(pattern="1:4", sparsity=0.75).share == Pruning(pattern="1:4").share == 0.75
    assert Pruning().share == 0.5


def test_what_has_to_be_measured() -> None:
    assert Pruning().needs == ()
    assert Pruning(criterion="wanda").needs == ("norms",)
    assert Pruning(criterion="sparsegpt", rows="fisher").needs == ("hessian", "effects", "tokens")


def test_a_cut_says_what_it_is_and_leaves_the_site_alone() -> None:
    site = linear("a")
    before = site.weight.clone()
    cut = Pruning(pattern="2:4").cut(site, 0.5, {}, seed=0)
    assert isinstance(cut, Cut)
    assert str(cut) == "2:4, 50.0% zeros, by magnitude"
    assert torch.equal(site.weight, before)
    assert torch.equal(cut.weight, torch.where(cut.weight != 0, before, 0.0))
    assert ((cut.weight != 0).unflatten(1, (-1, 4)).sum(-1) == 2).all()


def test_a_cut_of_a_convolution_has_its_shape() -> None:
    site = conv("c")
    cut = Pruning(pattern="4x1").cut(site, 0.5, {}, seed=0)
    assert isinstance(cut, Cut)
    assert cut.weight.shape == site.shape


def test_nothing_to_cut() -> None:
    nan = {"norms": torch.full((64,), torch.nan)}
    assert Pruning(criterion="wanda").cut(linear("a"), 0.5, nan, 0) == Refused("its calibration inputs hold NaN or infinity")
    assert Pruning(criterion="wanda").cut(linear("a"), 0.5, {}, 0) == Refused("no calibration input reaches it")
    same = Pruning().cut(linear("a", stored=torch.ones(32, 64)), 0.5, {}, 0)
    assert isinstance(same, Refused)
    assert "worth the same" in same.reason


def test_sites_that_stay_as_they_are() -> None:
    assert Pruning().refuse(linear("tiny", 4, 8)) == Refused("32 weights are fewer than min_weights 1024")
    constant = linear("a", constant=True)
    assert Pruning().refuse(constant) is not None
    assert Pruning().refuse(constant, ("a",)) is None


def test_a_sparsity_is_divided_exactly_by_the_scores_that_are_given() -> None:
    pruning = Pruning(sparsity=0.8, pattern="4x1", allocation="global")
    sites = [linear("large", 64, 64), linear("small", stored=0.01 * torch.randn(256, 64))]
    shares = pruning.allocate(sites, lambda site: pruning.unit_scores(site, {}, 0))
    assert shares["large"] * 1024 + shares["small"] * 4096 == pytest.approx(0.8 * 5120)
    assert shares["large"] < shares["small"]
    turned = pruning.allocate(sites, lambda site: -pruning.unit_scores(site, {}, 0))
    assert turned["large"] > turned["small"]
    assert pruning.allocate([], lambda site: torch.zeros(0)) == {}


def test_a_limit_is_met_by_the_costs_that_are_given() -> None:
    pruning = Pruning(limit=Limit(1000.0))
    costs = {"a": lambda kept: float(kept)}
    shares = pruning.allocate([linear("a", 64, 64)], lambda site: pruning.unit_scores(site, {}, 0), costs=costs)
    assert round((1 - shares["a"]) * 4096) in range(990, 1001)


def test_what_nobody_has_given_is_not_made_up() -> None:
    with pytest.raises(SparseccError, match="asks for what is not known"):
        Pruning(allocation="sensitivity").allocate([linear("a")], lambda site: torch.zeros(1))


def test_each_site_has_its_own_seed() -> None:
    assert site_seed(0, "a") != site_seed(0, "b")
    assert site_seed(0, "a") != site_seed(1, "a")
    assert site_seed(0, "a") == site_seed(0, "a")
