"""Gradients in random directions, against Jacobians that are written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsecc.calibration.context import Context
from sparsecc.calibration.gradients import FEWEST, _groups, gradients
from sparsecc.calibration.statistics import calibrated
from sparsecc.errors import RecipeError
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import WeightSite
from tests.laws.hosts import graph, model


class Chain(nn.Module):
    """Two layers, a convolution, and a layer whose output is rounded away."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.lost = nn.Linear(5, 4), nn.Linear(4, 3, bias=False), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x))) + self.lost(x).round().sum().long()


def chain() -> tuple[FxGraph, list[tuple[Tensor]]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Chain().eval()
        inputs = [(torch.randn(2, 5),) for _ in range(3)]
    return FxGraph.from_module(module, inputs[0]), inputs


def test_the_mean_of_products_is_the_jacobians(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsecc.calibration.gradients.SAMPLES", 6000)
    graph, inputs = chain()
    sites = graph.sites(WeightSite, ("first", "second"))
    found = gradients(graph, sites, Context(calibration=inputs))
    for site, drawn in found:
        assert drawn is not None

        def outputs(weight: Tensor, x: tuple[Tensor], name: str = site.name) -> Tensor:
            return graph.run_with(x, {name: (weight, None)}).outputs[0]

        expected = torch.zeros(site.rows * site.cols, site.rows * site.cols)
        for x in inputs:
            jacobian = torch.autograd.functional.jacobian(lambda w, x=x: outputs(w, x).flatten(), site.weight.detach()).flatten(1)
            expected += jacobian.T @ jacobian / outputs(site.weight, x).detach().square().sum() / len(inputs)
        products = drawn.flatten(1).T @ drawn.flatten(1) / len(drawn)
        assert float((products - expected).norm() / expected.norm()) < 0.06


def test_each_input_counts_alike_and_the_seed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsecc.calibration.gradients.SAMPLES", 6)
    graph, inputs = chain()
    [site] = graph.sites(WeightSite, ("second",))

    def drawn(samples: list[tuple[Tensor]], seed: int = 0) -> Tensor:
        [(_, found)] = gradients(graph, [site], Context(calibration=samples, seed=seed))
        assert found is not None
        assert found.shape == (6, site.rows, site.cols)
        return found

    quiet = [inputs[0], tuple(torch.zeros_like(x) for x in inputs[0]), inputs[1]]
    assert torch.equal(drawn(inputs), drawn(inputs))
    assert not torch.equal(drawn(inputs), drawn(inputs, seed=1))
    assert torch.equal(drawn(inputs)[:2], drawn(quiet)[:2])  # two of each
    assert not torch.equal(drawn(inputs)[2:4], drawn(quiet)[2:4])
    many = [inputs[0], inputs[1]] * 6
    assert torch.equal(drawn(many), drawn([inputs[0]]))  # every second one of twelve


def test_in_groups_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    of, context = graph("fx", "convolutions"), Context(calibration=[(model("convolutions")[1],)])
    sites = [site for site in of.sites(WeightSite) if site.name != "depthwise"]
    monkeypatch.setattr("sparsecc.calibration.gradients.SAMPLES", 20)
    whole = {site.name: found for site, found in gradients(of, sites, context)}
    monkeypatch.setattr("sparsecc.calibration.gradients._BYTES", 20 * 4 * max(site.rows * site.cols for site in sites))
    assert len(list(_groups(sites))) > 1
    for site, found in gradients(of, sites, context):
        together = whole[site.name]
        assert found is not None
        assert together is not None
        torch.testing.assert_close(found, together, rtol=1e-4, atol=1e-6)


def test_what_does_not_fit_gets_fewer_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    of, context = graph("fx", "transformer"), Context(calibration=[(model("transformer")[1],)])
    monkeypatch.setattr("sparsecc.calibration.gradients._BYTES", 64 * 4 * 32 * 32)
    found = {site.name: gradient for site, gradient in gradients(of, of.sites(WeightSite), context)}
    assert {len(gradient) for gradient in found.values() if gradient is not None} == {FEWEST, 58, 64}


def test_they_are_those_of_the_matrix_of_a_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step along a gradient moves the output as the gradient says."""
    monkeypatch.setattr("sparsecc.calibration.gradients.SAMPLES", 1)
    of, x = graph("fx", "convolutions"), model("convolutions")[1]
    [site] = of.sites(WeightSite, ("dilated",))
    [(_, found)] = gradients(of, [site], Context(calibration=[(x,)], seed=3))
    assert found is not None and isinstance(of, FxGraph)
    [y] = of.run((x,)).outputs
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)) / y.norm()
    step = 1e-2 * found[0] / found[0].norm()
    up, down = (of.run_with((x,), {"dilated": (site.from_matrix(site.matrix + sign * step), None)}).outputs[0] for sign in (1, -1))
    torch.testing.assert_close(((up - down) * direction).sum() / 2, (found[0] * step).sum(), rtol=1e-2, atol=0)


def test_a_layer_that_no_output_depends_on() -> None:
    graph, inputs = chain()
    sites = graph.sites(WeightSite, ("lost", "second"))
    stats = {site.name: stats for site, stats in calibrated(graph, sites, ("gradients", "norms"), Context(calibration=inputs))}
    assert stats["lost"] == {}
    assert sorted(stats["second"]) == ["gradients", "norms"]


def test_onnx_has_none() -> None:
    of = graph("onnx", "transformer")
    with pytest.raises(RecipeError, match="an ONNX model does not give; take sparsegpt, or give the torch model"):
        list(calibrated(of, of.sites(WeightSite), ("gradients",), Context(calibration=[(model("transformer")[1],)])))
