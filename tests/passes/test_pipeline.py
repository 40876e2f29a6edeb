from __future__ import annotations

import pytest
import torch

from sparsecc.calibration.context import Context
from sparsecc.errors import RecipeError
from sparsecc.graph.sites import Unseen, WeightSite
from sparsecc.passes import pipeline
from sparsecc.passes.pack import Pack
from sparsecc.passes.prune import Prune
from sparsecc.recipe import Recipe
from tests.passes.fake import FakeGraph, linear


def test_each_pass_sees_what_the_one_before_left() -> None:
    before = FakeGraph([linear("a", 64, 64)])
    recipe = Recipe((Prune(pattern="2:4"), Pack()))
    graph, results = pipeline.run(before, recipe, Context())
    assert [step for step, _ in results] == list(recipe.passes)
    assert all(result.modified for _, result in results)
    assert results[-1][1].graph is graph
    packed = graph.sites(WeightSite)[0].packed
    assert packed is not None
    assert packed.format.key == "nm:2:4"
    assert before.sites(WeightSite)[0].packed is None


def test_no_passes_no_change() -> None:
    before = FakeGraph([linear("a")])
    assert pipeline.run(before, Recipe(), Context()) == (before, [])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_of_the_run_reaches_the_passes(seed: int) -> None:
    graph, _ = pipeline.run(FakeGraph([linear("a")]), Recipe((Prune(criterion="random"),)), Context(seed=seed))
    other, _ = pipeline.run(FakeGraph([linear("a")]), Recipe((Prune(criterion="random", seed=seed),)), Context(seed=9))
    assert torch.equal(graph.sites(WeightSite)[0].weight, other.sites(WeightSite)[0].weight)


def test_a_field_that_does_not_fit_the_model_is_named_with_its_place() -> None:
    recipe = Recipe((Pack(), Prune(targets=("b",))))
    with pytest.raises(RecipeError, match=r"recipe: passes\[1\]\.prune\.targets: 'b' matches no layer"):
        pipeline.run(FakeGraph([linear("a")]), recipe, Context())


def test_a_pass_that_changes_nothing_says_why() -> None:
    narrow = Unseen(name="fc", kind="MatMulInteger", shape=(8, 8), dtype="int8", nbytes=64, sparsity=0.0, reason="int8, not floating point")
    graph, recipe = FakeGraph([], [narrow]), Recipe((Prune(),))
    [note] = pipeline.idle(graph, recipe, pipeline.run(graph, recipe, Context())[1])
    assert note == (
        "recipe: passes[0].prune changed nothing: the model has no layer that it works on (MatMulInteger 'fc': int8, not floating point)"
    )
    graph, recipe = FakeGraph([linear("a"), linear("b"), linear("c", 8, 8)]), Recipe((Pack(), Prune()))
    [note] = pipeline.idle(graph, recipe, pipeline.run(graph, recipe, Context())[1])
    assert note.startswith("recipe: passes[0].pack changed nothing: 'a' and 2 more: ")


def test_under_strict_it_is_an_error() -> None:
    recipe = Recipe((Prune(), Prune()), strict=True)
    with pytest.raises(RecipeError, match=r"recipe: passes\[1\]\.prune changed nothing: 'a': already zero"):
        pipeline.run(FakeGraph([linear("a")]), recipe, Context())
