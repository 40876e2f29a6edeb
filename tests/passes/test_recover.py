"""Layers that were pruned come near to the dense ones again, and their zeros stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparsecc.calibration.context import Context, Progress
from sparsecc.errors import RecipeError, UserError
from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import WeightSite
from sparsecc.passes import pipeline
from sparsecc.passes.base import PassResult
from sparsecc.passes.prune import Prune
from sparsecc.passes.recover import Recover
from sparsecc.recipe import Recipe
from sparsecc.recovery.reconstruct import fit, split
from sparsecc.recovery.schedule import error_of
from tests.laws.hosts import HOSTS, graph, model
from tests.passes.fake import FakeGraph, linear

PRUNE = Prune(pattern="2:4", min_weights=0)


def samples(name: str, count: int = 30) -> list[tuple[torch.Tensor]]:
    """Mixtures of fewer sources than there are inputs: only then one weight can do another one's work."""
    *shape, width = model(name)[1].shape
    mix = torch.randn(max(width // 6, 1), width, generator=torch.Generator().manual_seed(99))
    return [(torch.randn(*shape, len(mix), generator=torch.Generator().manual_seed(i)) @ mix,) for i in range(count)]


def recovered(host: str, name: str, step: Recover) -> tuple[Graph, Graph, PassResult]:
    """The dense graph, the pruned one, and what recovering gave."""
    dense = graph(host, name)
    pruned = PRUNE.apply(dense).graph
    return dense, pruned, step.apply(pruned, Context(calibration=samples(name), original=dense))


def apart(changed: Graph, dense: Graph, name: str) -> float:
    """Of outputs, on inputs that nothing was fitted on."""
    pairs = [(changed.run(x).outputs[0], dense.run(x).outputs[0]) for x in samples(name, 34)[30:]]
    return sum(float((a - b).square().sum()) for a, b in pairs)


def assert_zeros_stay(pruned: Graph, recovered: Graph) -> None:
    for before, after in zip(pruned.sites(WeightSite), recovered.sites(WeightSite), strict=True):
        assert not (after.weight != 0)[before.weight == 0].any()


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", ["transformer", "convolutions"])
def test_reconstruction(host: str, name: str) -> None:
    dense, pruned, result = recovered(host, name, Recover())
    assert any(match.refused is None for match in result.matches)
    assert apart(result.graph, dense, name) < 0.9 * apart(pruned, dense, name)
    assert_zeros_stay(pruned, result.graph)


def test_distillation() -> None:
    dense, pruned, result = recovered("fx", "transformer", Recover(method="distillation", steps=150, learning_rate=3e-3))
    assert all(match.refused is None for match in result.matches)
    assert apart(result.graph, dense, "transformer") < 0.7 * apart(pruned, dense, "transformer")
    assert_zeros_stay(pruned, result.graph)


def test_distillation_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    step = Recover(method="distillation", steps=40, learning_rate=3e-3)
    _, _, whole = recovered("fx", "transformer", step)
    dense = graph("fx", "transformer")
    pruned = PRUNE.apply(dense).graph
    resumed = replace(step, checkpoint=str(tmp_path / "state"))

    def stop(progress: Progress) -> None:
        if progress.done == 27:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resumed.apply(pruned, Context(calibration=samples("transformer"), original=dense, progress=stop))
    seen: list[int] = []
    context = Context(calibration=samples("transformer"), original=dense, progress=lambda progress: seen.append(progress.done))
    result = resumed.apply(pruned, context)
    assert seen[0] == 27  # of the last look, two steps apart
    for one, other in zip(whole.graph.sites(WeightSite), result.graph.sites(WeightSite), strict=True):
        assert torch.equal(one.weight, other.weight)


@pytest.mark.parametrize("name", ["transformer", "convolutions"])
def test_blocks(name: str) -> None:
    dense, pruned, result = recovered("fx", name, Recover(method="blocks", steps=60, learning_rate=3e-3))
    assert any(match.refused is None for match in result.matches)
    assert apart(result.graph, dense, name) < 0.8 * apart(pruned, dense, name)
    assert_zeros_stay(pruned, result.graph)
    assert all("of its block" in str(match.action) for match in result.matches if match.refused is None)


def test_blocks_that_are_done_are_not_done_again(tmp_path: Path) -> None:
    step = Recover(method="blocks", steps=10, learning_rate=3e-3)
    _, _, whole = recovered("fx", "transformer", step)
    dense = graph("fx", "transformer")
    pruned = PRUNE.apply(dense).graph
    resumed = replace(step, checkpoint=str(tmp_path / "state"))
    told: list[str] = []

    def stop(progress: Progress) -> None:
        told.append(progress.note.split(",")[0])
        if len(set(told)) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resumed.apply(pruned, Context(calibration=samples("transformer"), original=dense, progress=stop))
    seen: list[str] = []
    context = Context(
        calibration=samples("transformer"), original=dense, progress=lambda progress: seen.append(progress.note.split(",")[0])
    )
    result = resumed.apply(pruned, context)
    assert not set(seen) & set(told[:-1])
    for ours, theirs in zip(result.graph.sites(WeightSite), whole.graph.sites(WeightSite), strict=True):
        assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize("host", HOSTS)
def test_layers_that_are_done_are_not_fitted_again(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, whole = recovered(host, "transformer", Recover())
    step = Recover(checkpoint=str(tmp_path / "state"))
    dense = graph(host, "transformer")
    pruned = PRUNE.apply(dense).graph

    def stop(progress: Progress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step.apply(pruned, Context(calibration=samples("transformer"), original=dense, progress=stop))
    fitted: list[Tensor] = []
    monkeypatch.setattr("sparsecc.passes.recover.fit", lambda weight, keep, moments: fitted.append(weight) or fit(weight, keep, moments))
    result = step.apply(pruned, Context(calibration=samples("transformer"), original=dense))
    assert len(fitted) == len(whole.matches) - 3
    assert list(map(str, result.matches)) == list(map(str, whole.matches))
    for one, other in zip(result.graph.sites(WeightSite), whole.graph.sites(WeightSite), strict=True):
        assert torch.equal(one.weight, other.weight)
    others = Context(calibration=[(2 * x,) for (x,) in samples("transformer")], original=dense)
    with pytest.raises(UserError, match="another model, recipe or calibration"):
        step.apply(pruned, others)


class Transposed(torch.nn.Module):
    """A layer whose weight is stored [in, out]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(24, 16, generator=torch.Generator().manual_seed(0)))
        self.last = torch.nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last((x @ self.weight).relu())


def test_weights_that_are_stored_transposed_go_on_as_well(tmp_path: Path) -> None:
    module = Transposed().eval()
    x = [(torch.randn(6, 24, generator=torch.Generator().manual_seed(i)),) for i in range(10)]
    dense = FxGraph.from_module(module, x[0])
    pruned = Prune(sparsity=0.5, min_weights=0).apply(dense).graph
    step = Recover(method="distillation", steps=20, learning_rate=3e-3)
    whole = step.apply(pruned, Context(calibration=x, original=dense)).graph

    def stop(progress: Progress) -> None:
        if progress.done == 11:
            raise KeyboardInterrupt

    resumed = replace(step, checkpoint=str(tmp_path / "state"))
    with pytest.raises(KeyboardInterrupt):
        resumed.apply(pruned, Context(calibration=x, original=dense, progress=stop))
    again = resumed.apply(pruned, Context(calibration=x, original=dense)).graph
    for one, other in zip(whole.sites(WeightSite), again.sites(WeightSite), strict=True):
        assert torch.equal(one.weight, other.weight)
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("method", ["blocks", "distillation"])
def test_a_checkpoint_of_something_else_is_refused(method: str, tmp_path: Path) -> None:
    step = Recover(method=method, steps=2, checkpoint=str(tmp_path / "state"))
    recovered("fx", "transformer", step)
    with pytest.raises(UserError, match="another model, recipe or calibration"):
        recovered("fx", "transformer", replace(step, steps=3))
    dense = graph("fx", "transformer")
    others = Context(calibration=[(2 * x,) for (x,) in samples("transformer")], original=dense)
    with pytest.raises(UserError, match="another model, recipe or calibration"):
        step.apply(PRUNE.apply(dense).graph, others)
    [first, *_] = sorted(tmp_path.iterdir())
    first.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read"):
        recovered("fx", "transformer", step)


def test_after_a_permutation_layers_are_compared_in_their_new_order() -> None:
    """Nothing but the order differs, so that there is nothing to make up for but what was pruned."""
    recipe = Recipe.load({"passes": ["permute", {"prune": {"pattern": "4x1", "min_weights": 0}}, "recover"]})
    dense = graph("fx", "transformer")
    final, [(_, permuted), (_, pruned), (_, result)] = pipeline.run(dense, recipe, Context(calibration=samples("transformer")))
    assert permuted.modified
    assert result.modified
    assert apart(final, dense, "transformer") < apart(pruned.graph, dense, "transformer")
    assert all("error" in str(match.action) for match in result.matches if match.refused is None)


@pytest.mark.parametrize("method", ["blocks", "distillation"])
def test_gradient_descent_needs_gradients(method: str) -> None:
    with pytest.raises(RecipeError, match="reconstruction"):
        recovered("onnx", "transformer", Recover(method=method))


class Forbidding(torch.nn.Module):
    """One of its outputs is forbidden, as padding in a vocabulary is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(16, 8)
        self.register_buffer("mask", torch.tensor([0.0] * 7 + [-torch.inf]))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.mask


def test_outputs_without_a_distance_are_refused_before_anything_is_learnt() -> None:
    module = Forbidding().eval()
    x = [(torch.randn(4, 16, generator=torch.Generator().manual_seed(i)),) for i in range(10)]
    dense = FxGraph.from_module(module, x[0])
    steps: list[Progress] = []
    context = Context(calibration=x, original=dense, progress=steps.append)
    with pytest.raises(UserError, match="NaN or infinity"):
        Recover(method="distillation").apply(PRUNE.apply(dense).graph, context)
    assert not steps


@pytest.mark.parametrize("method", ["reconstruction", "blocks", "distillation"])
def test_layers_that_share_a_bias_learn_one_each(method: str) -> None:
    """What is reported is what the model gives that is written."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(*(layer for _ in range(3) for layer in (torch.nn.Linear(16, 16), torch.nn.ReLU()))).eval()
    module[2].bias = module[4].bias = module[0].bias
    x = [(torch.randn(4, 16, generator=torch.Generator().manual_seed(i)),) for i in range(20)]
    dense = FxGraph.from_module(module, x[0])
    result = Recover(method=method, steps=40, learning_rate=3e-3, variations=0).apply(
        PRUNE.apply(dense).graph, Context(calibration=x, original=dense)
    )
    assert any(match.refused is None for match in result.matches)
    if method == "distillation":
        held = [x[i] for i in split(20, 0.1)[1]]
        pairs = [(result.graph.run(sample).outputs[0], dense.run(sample).outputs[0]) for sample in held]
        told = float(str(result.matches[0].action).rsplit(maxsplit=1)[1])
        assert error_of(pairs) == pytest.approx(told, rel=0.01)


class Overflowing(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) / (x.abs().amax() < 50)


def test_a_step_that_overflows_is_left_out() -> None:
    samples = [(torch.randn(4, 16, generator=torch.Generator().manual_seed(i)),) for i in range(10)]
    samples[0] = (100 * samples[0][0],)
    dense = FxGraph.from_module(Overflowing().eval(), samples[0])
    pruned = PRUNE.apply(dense).graph
    result = Recover(method="distillation", steps=40, variations=0).apply(pruned, Context(calibration=samples, original=dense))
    assert result.matches[0].refused is None
    assert all(bool(site.weight.isfinite().all()) for site in result.graph.sites(WeightSite))


def test_a_recipe_compares_with_the_model_as_it_came() -> None:
    recipe = Recipe.load({"passes": [{"prune": {"pattern": "2:4", "min_weights": 0}}, "recover"]})
    _, [_, (_, result)] = pipeline.run(graph("fx", "transformer"), recipe, Context(calibration=samples("transformer")))
    assert result.modified


def test_layers_that_nothing_changed_stay() -> None:
    result = Recover().apply(graph("fx", "transformer"), Context())
    assert not result.modified
    assert {str(match.refused.reason) for match in result.matches if match.refused} == {"no pass changed it"}


def test_layers_that_nothing_changed_learn_where_they_are_asked_to() -> None:
    """All of them, but only beside one that was changed."""
    dense = graph("fx", "transformer")
    first = next(iter(dense.sites(WeightSite))).name
    pruned = Prune(targets=(first,), sparsity=0.7, min_weights=0).apply(dense).graph
    step = Recover(method="distillation", steps=30, learning_rate=1e-3, unchanged=True)
    result = step.apply(pruned, Context(calibration=samples("transformer"), original=dense))
    alone = replace(step, unchanged=False).apply(pruned, Context(calibration=samples("transformer"), original=dense))
    assert len([match for match in result.matches if match.refused is None]) > 1
    assert [match.site.name for match in alone.matches if match.refused is None] == [first]
    assert apart(result.graph, dense, "transformer") < apart(pruned, dense, "transformer")
    assert not step.apply(dense, Context(calibration=samples("transformer"))).modified
    with pytest.raises(RecipeError, match="unchanged: least squares find nothing better"):
        Recover(unchanged=True)


def test_without_calibration() -> None:
    dense = FakeGraph([linear("a")])
    with pytest.raises(RecipeError, match="needs calibration"):
        Recover().apply(Prune().apply(dense).graph, Context(original=dense))


def test_new_weights_that_are_no_better_elsewhere_are_refused() -> None:
    """The samples to fit on say nothing about the one held out."""
    dense = FakeGraph([linear("a", rows=4, cols=64)])
    pruned = Prune(min_weights=0).apply(dense).graph
    noise = [(1e-3 * torch.randn(1, 64, generator=torch.Generator().manual_seed(i)),) for i in range(9)]
    kept = (pruned.sites(WeightSite)[0].weight != 0).all(0) * torch.randn(1, 64)
    result = Recover().apply(pruned, Context(calibration=[*noise[:5], (kept,), *noise[5:]], original=dense))
    assert not result.modified
    assert "no better on held-out inputs" in str(result.matches[0].refused)


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "magic"},
        {"held_out": 1.0},
        {"steps": 0},
        {"learning_rate": 0.0},
        {"variations": -1},
        {"targets": ("re:(",)},
    ],
)
def test_mistakes(fields: dict) -> None:
    with pytest.raises(RecipeError, match=next(iter(fields))):
        Recover(**fields)
