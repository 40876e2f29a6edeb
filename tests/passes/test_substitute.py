from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsecc import structures
from sparsecc.calibration.context import Context
from sparsecc.errors import RecipeError
from sparsecc.graph.sites import Linear
from sparsecc.passes.pack import Pack
from sparsecc.passes.prune import Prune
from sparsecc.passes.substitute import Substitute, Substitution, relative_error
from sparsecc.recipe import Recipe
from sparsecc.structures.low_rank import LowRank
from sparsecc.structures.monarch import Monarch
from tests.passes.fake import FakeGraph, conv, linear


def substitution(step: Substitute, site: Linear, context: Context = Context()) -> Substitution:
    [match] = step.find(FakeGraph([site]), context)
    assert isinstance(match.action, Substitution), match.refused
    return match.action


def refusals(step: Substitute, *sites: Any, context: Context = Context()) -> list[str]:
    return [match.refused.reason for match in step.apply(FakeGraph(sites), context).matches if match.refused]


def skewed(tokens: int, features: int) -> Tensor:
    mix = torch.randn(features, features) * torch.logspace(0, -2, features)
    return torch.randn(tokens, features) @ mix.T


@pytest.mark.parametrize("structure", ["kronecker", "low_rank", "monarch", "monarch:4x2:3", "auto"])
def test_every_linear_layer_gets_factors_within_the_budget(structure: str) -> None:
    bias = torch.randn(64)
    before = FakeGraph([linear("a", 64, 48, bias=bias), linear("b", 32, 64, seed=1)])
    result = Substitute(structure=structure, params=0.4).apply(before)
    assert result.modified
    for old, new, match in zip(before.sites(Linear), result.graph.sites(Linear), result.matches, strict=True):
        assert new.form is not None
        assert new.form.nbytes <= 0.4 * old.weight.numel() * 4
        assert new.bias is old.bias
        assert structure == "auto" or new.form.key.startswith(structure)
        assert str(match.action).startswith(new.form.key)


def test_work_is_said_where_it_is_not_as_many_products_as_numbers() -> None:
    found = substitution(Substitute(structure="kronecker:4x8:3"), linear("a", 64, 48))
    assert str(found).startswith("kronecker:4x8:3, 0.12 of the parameters, 1.25 of the multiplications, weight error 0.")
    assert "multiplications" not in str(substitution(Substitute(structure="low_rank"), linear("a", 64, 48)))


def test_twice_is_once() -> None:
    once = Substitute().apply(FakeGraph([linear("a")])).graph
    form = once.sites(Linear)[0].form
    assert form is not None
    key = form.key
    assert refusals(Substitute(), *once.sites(Linear)) == [f"already structured as {key}"]
    assert [match.refused.reason for match in Prune().apply(once).matches if match.refused] == [f"already structured as {key}"]
    assert [match.refused.reason for match in Pack().apply(once).matches if match.refused] == [f"already structured as {key}"]


@pytest.mark.parametrize("key", ["low_rank:5", "monarch:2x4:1", "monarch:4x1:2", "monarch:8x8:1"])
def test_auto_finds_what_was_planted(key: str) -> None:
    structure = structures.from_key(key)
    planted = structure.project(torch.randn(64, 64)).dense()
    found = substitution(Substitute(params=structure.params(64, 64) / 64**2), linear("a", stored=planted))
    assert found.weight.structure == structure
    assert found.error <= 1e-5


@pytest.mark.parametrize("calibrated", [False, True])
def test_auto_is_the_candidate_with_the_least_error(calibrated: bool) -> None:
    site, context = linear("a", 48, 64), Context(calibration=[(skewed(100, 64),)] if calibrated else None)
    auto = substitution(Substitute(params=0.3), site, context)
    others = [substitution(Substitute(structure=name, params=0.3), site, context) for name in ("low_rank", "monarch")]
    assert auto.error == min(other.error for other in others)
    assert auto.error_of == ("output" if calibrated else "weight")


def test_errors_are_those_of_the_outputs_on_calibration() -> None:
    site, samples = linear("a", 48, 64), [(skewed(40, 64),), (skewed(25, 64).reshape(5, 5, 64),)]
    found = substitution(Substitute(structure="low_rank", params=0.3), site, Context(calibration=samples))
    x = torch.cat([sample.reshape(-1, 64) for (sample,) in samples]).double()
    lost, whole = x @ (site.weight - found.weight.dense()).double().T, x @ site.weight.double().T
    assert found.error == pytest.approx(float(lost.norm() / whole.norm()), rel=1e-4)
    plain = substitution(Substitute(structure="low_rank", params=0.3), site)
    assert found.error < float((x @ (site.weight - plain.weight.dense()).double().T).norm() / whole.norm())
    assert plain.error == pytest.approx(float((site.weight - plain.weight.dense()).norm() / site.weight.norm()), rel=1e-4)


def test_an_error_budget_refuses_with_the_figure() -> None:
    [reason] = refusals(Substitute(structure="low_rank", params=0.25, max_error=0.1), linear("a", 64, 64))
    assert reason.startswith("low_rank:8, 0.25 of the parameters, weight error 0.7")
    assert reason.endswith(", more than max_error 0.1")
    exact = torch.randn(64, 8) @ torch.randn(8, 64)
    assert not refusals(Substitute(structure="low_rank", params=0.25, max_error=1e-4), linear("a", stored=exact))


@pytest.mark.parametrize(
    ("step", "site", "reason"),
    [
        (Substitute(structure="monarch"), linear("a", 37, 41), "no monarch of 37×41 keeps at most 0.5 of the parameters"),
        (Substitute(params=0.01), linear("a", 16, 16), "no structure of 16×16 keeps at most 0.01 of the parameters"),
        (Substitute(), linear("a", stored=torch.zeros(16, 16)), "all its weights are zero; pack stores those in fewer bytes"),
        (Substitute(), linear("a", stored=torch.full((16, 16), torch.nan)), "its weight holds NaN or infinity"),
        (Substitute(), linear("a", stored=torch.ones(16, 16, dtype=torch.int8)), "its weight is int8, not floating point"),
        (Substitute(), linear("a", shared=True), "its weight serves other layers too"),
    ],
)
def test_refuses_with_a_reason(step: Substitute, site: Linear, reason: str) -> None:
    assert refusals(step, site) == [reason]


def test_calibration_with_nan_is_refused_and_so_is_one_of_zeros() -> None:
    site = linear("a")
    bad, zeros = (Context(calibration=[(torch.full((4, 64), value),)]) for value in (torch.nan, 0.0))
    assert refusals(Substitute(), site, context=bad) == ["its calibration inputs hold NaN or infinity"]
    assert refusals(Substitute(), site, context=zeros) == ["its calibration inputs are all zero"]


@pytest.mark.parametrize("calibration", [None, [(torch.randn(3, 64),)]])
def test_a_rank_deficient_weight_is_exact(calibration: Any) -> None:
    weight = torch.randn(48, 2) @ torch.randn(2, 64)
    found = substitution(Substitute(structure="low_rank"), linear("a", stored=weight), Context(calibration=calibration))
    assert (found.weight.dense() - weight).norm() <= 1e-5 * weight.norm()


def test_half_precision_stays_half_precision() -> None:
    found = substitution(Substitute(structure="monarch"), linear("a", stored=torch.randn(32, 64).to(torch.bfloat16)))
    assert {tensor.dtype for tensor in found.weight.tensors.values()} == {torch.bfloat16}
    assert 0 < found.error < 1


def test_only_linear_layers_are_meant() -> None:
    graph = FakeGraph([conv("c"), linear("a")])
    assert [match.site.name for match in Substitute().find(graph, Context())] == ["a"]
    with pytest.raises(RecipeError, match="targets: 'c' matches no layer"):
        list(Substitute(targets=("c",)).find(graph, Context()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"structure": "monarc"}, "structure: no 'monarc'; did you mean 'monarch'"),
        ({"structure": "monarch:4"}, "structure 'monarch:4' is not one that sparsecc writes"),
        ({"structure": "dense"}, "structure: no 'dense'; there are: armor, kronecker, low_rank, monarch, auto"),
        ({"params": 1.0}, r"params: 1.0 is not in \(0, 1\)"),
        ({"params": 0}, r"params: 0.0 is not in \(0, 1\)"),
        ({"max_error": 0.0}, "max_error: 0.0 is not positive"),
        ({"targets": [""]}, "targets: '' is empty"),
    ],
)
def test_wrong_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.load({"passes": [{"substitute": fields}]})


def test_relative_error() -> None:
    weight, x = torch.randn(6, 5), torch.randn(9, 5)
    other, h = weight + 0.1 * torch.randn(6, 5), x.double().T @ x.double() / 9
    assert relative_error(weight, weight, h) == 0
    assert relative_error(weight, other, None) == pytest.approx(float((weight - other).norm() / weight.norm()), rel=1e-5)
    assert relative_error(weight, other, h) == pytest.approx(float((x @ (weight - other).T).norm() / (x @ weight.T).norm()), rel=1e-5)
    assert relative_error(torch.zeros(2, 2), torch.ones(2, 2), None) == 0


def test_whitening_beats_plain_svd_on_the_outputs_of_a_real_model() -> None:
    """MiniLM's own weights and sentences; benchmarks/structures.py does it for every layer."""
    from models import minilm
    from sparsecc.graph.fx.graph import FxGraph

    samples = list(minilm.calibration(8, tokens=32))
    graph = FxGraph.from_module(minilm.build(), samples[0])
    step = Substitute(structure="low_rank", params=0.25, targets=(r"re:encoder\.layer\.0\..*",))
    matches = list(step.find(graph, Context(calibration=samples)))
    assert len(matches) == 6
    for match in matches:
        assert isinstance(match.site, Linear)
        assert isinstance(match.action, Substitution)
        structure, matrix = match.action.weight.structure, match.site.matrix
        assert isinstance(structure, LowRank)
        x = torch.cat([graph.run(sample, [match.site.name]).taps[match.site.name][0].reshape(-1, match.site.cols) for sample in samples])
        plain = structure.project(matrix).dense()
        assert match.action.error < float((x @ (matrix - plain).T).norm() / (x @ matrix.T).norm())


def test_monarch_ignores_calibration_but_is_judged_by_it() -> None:
    site, context = linear("a", 48, 64), Context(calibration=[(skewed(100, 64),)])
    plain, judged = (substitution(Substitute(structure="monarch"), site, c) for c in (Context(), context))
    assert isinstance(judged.weight.structure, Monarch)
    assert judged.error_of == "output"
    assert judged.error != plain.error


def test_few_tokens_are_told() -> None:
    few, enough = (Context(calibration=[(torch.randn(tokens, 64),)]) for tokens in (20, 64))
    assert "20 tokens for 64 inputs" in str(substitution(Substitute(structure="low_rank"), linear("a"), few))
    assert "tokens" not in str(substitution(Substitute(structure="low_rank"), linear("a"), enough))
    assert "tokens" not in str(substitution(Substitute(structure="monarch"), linear("a"), few))  # which looks at the weights alone
