from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparsecc.calibration.context import Context
from sparsecc.calibration.sensitivity import COARSE, LEVELS, SAMPLES, Losses, Sensitivity, measured
from sparsecc.errors import RecipeError, Refused, UserError
from sparsecc.graph.base import Run
from sparsecc.graph.sites import WeightSite
from sparsecc.passes.prune import Prune
from sparsecc.pruning import Pruning
from tests.laws.hosts import HOSTS, graph, model
from tests.passes.fake import FakeGraph, linear

X = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))


class Scaled(FakeGraph):
    """One output, in which layer i counts 2^i times; `runs` counts evaluations of all copies."""

    def __init__(self, sites, runs: list[int] | None = None) -> None:
        super().__init__(sites)
        self.runs = [0] if runs is None else runs

    def run(self, inputs, taps=()) -> Run:
        self.runs[0] += 1
        outputs = super().run(inputs, taps).outputs
        return Run((torch.cat([2.0**i * y for i, y in enumerate(outputs)], -1), torch.arange(3)), {})

    def copy(self) -> Scaled:
        return Scaled(tuple(self._sites.values()), self.runs)


def layers() -> Scaled:
    return Scaled([linear(name, 64, 64, seed=i) for i, name in enumerate("abc")])


def found(pruning: Pruning, on: FakeGraph, *samples: Tensor, **options) -> dict[str, Sensitivity | Refused]:
    context = Context(calibration=[(x,) for x in samples])
    return {site.name: value for site, value in measured(pruning, on, on.sites(WeightSite), context, **options)}


def test_gains_are_the_shares_of_the_outputs_that_layers_make() -> None:
    """Outputs are linear in every layer, so that a_l = ‖y_l‖² / ‖y‖² whatever the change."""
    on = layers()
    power = {site.name: 4.0**i * float((X @ site.weight.T).square().sum()) for i, site in enumerate(on.sites(WeightSite))}
    for name, sensitivity in found(Pruning(), on, X).items():
        assert isinstance(sensitivity, Sensitivity)
        assert sensitivity.gain == pytest.approx(power[name] / sum(power.values()), rel=1e-3)


def test_another_criterion_stands_in_for_one_that_takes_long() -> None:
    def losses(criterion: str) -> list[float]:
        on, context = layers(), Context(calibration=[(X,)])
        measured_ = Losses(Pruning(criterion=criterion), on, on.sites(WeightSite), context)
        return [measured_.of(name, share) for name in "abc" for share in (0.3, 0.6)]

    assert losses("alps") == losses("sparsegpt") != losses("wanda")


def test_predicted_and_measured_errors_of_the_model_agree_where_it_is_linear() -> None:
    for sensitivity in found(Pruning(criterion="wanda", pattern="4x1"), layers(), X, whole=True).values():
        assert isinstance(sensitivity, Sensitivity)
        assert sensitivity.levels == (0.0, *LEVELS, 1.0)
        assert len(sensitivity.model_errors) == len(LEVELS) + 1
        for level, error in zip(sensitivity.levels, sensitivity.model_errors, strict=False):
            assert sensitivity.loss(level) == pytest.approx(error**2, rel=1e-3)


def test_errors_are_those_of_the_layers_outputs_and_rise() -> None:
    on = FakeGraph([linear("a", 64, 64)])
    [site] = on.sites(WeightSite)
    sensitivity = found(Pruning(), on, X)["a"]
    assert isinstance(sensitivity, Sensitivity)
    half = Prune(sparsity=0.5).apply(on).graph.sites(WeightSite)[0].weight
    expected = (X @ (site.weight - half).T).norm() / (X @ site.weight.T).norm()
    assert sensitivity.errors[sensitivity.levels.index(0.5)] == pytest.approx(float(expected), rel=1e-4)
    assert list(sensitivity.errors) == sorted(sensitivity.errors)
    assert (sensitivity.errors[0], sensitivity.errors[-1]) == (0.0, 1.0)


def test_between_levels_the_error_is_linear_and_never_falls() -> None:
    sensitivity = Sensitivity(2.0, (0.0, 0.5, 0.75, 1.0), (0.0, 0.4, 0.3, 1.0))
    assert [sensitivity.loss(s) for s in (0.0, 0.25, 0.5, 0.75, 0.875, 1.0)] == pytest.approx([0, 0.08, 0.32, 0.32, 0.98, 2])


def test_zeros_that_are_there_cost_nothing() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(2))
    weight[:, 19:] = 0.0
    sensitivity = found(Pruning(), FakeGraph([linear("a", stored=weight)]), X)["a"]
    assert isinstance(sensitivity, Sensitivity)
    assert sensitivity.loss(45 / 64) == 0.0
    assert sensitivity.loss(46 / 64) > 0.0


def test_criteria_that_take_long_are_asked_at_fewer_levels() -> None:
    sensitivity = found(Pruning(criterion="sparsegpt"), layers(), X)["a"]
    assert isinstance(sensitivity, Sensitivity)
    assert sensitivity.levels == (0.0, *COARSE, 1.0)


def test_the_model_runs_on_few_samples_and_stays_as_it_is() -> None:
    on = layers()
    weights = [site.weight.clone() for site in on.sites(WeightSite)]
    found(Pruning(), on, *[X] * (3 * SAMPLES))
    assert on.runs == [4 * SAMPLES]  # dense, and once for each layer
    assert on.edits == []
    assert all(torch.equal(site.weight, weight) for site, weight in zip(on.sites(WeightSite), weights, strict=True))


def test_nothing_is_measured_before_it_is_asked_for_and_all_of_it_once() -> None:
    on = layers()
    losses = Losses(Pruning(), on, on.sites(WeightSite), Context(calibration=[(X,)]))
    assert on.runs == [0]
    first = losses.of("a", 0.5)
    assert losses.of("b", 0.5) > first > 0.0
    assert losses.of("a", 0.0) == 0.0
    assert on.runs == [4]


def test_the_loss_of_an_overflow_is_finite() -> None:
    """Only then it can be weighed against others."""
    known = Sensitivity(math.inf, (0.0, 0.5, 1.0), (0.0, 0.2, 1.0))
    assert known.loss(0.0) == 0.0
    assert 1e6 < known.loss(0.25) < known.loss(0.5) < known.loss(1.0) < math.inf


def test_a_layer_that_sees_nan_stays_whole() -> None:
    nan = X.clone()
    nan[0, 0] = math.nan
    on = FakeGraph([linear("a", 64, 64)])
    context = Context(calibration=[(nan,), (X,)])
    [(_, refused)] = measured(Pruning(), on, on.sites(WeightSite), context)
    assert refused == Refused("its calibration inputs hold NaN or infinity")
    losses = Losses(Pruning(), on, on.sites(WeightSite), context)
    assert losses.of("a", 0.0) == 0.0
    assert losses.of("a", 0.1) > 1e6


def test_without_calibration_or_outputs_it_says_so() -> None:
    step = Prune(allocation="sensitivity")
    with pytest.raises(RecipeError, match=r"^allocation: sensitivity is measured on calibration inputs; pass calibration= \(--calib\)"):
        step.apply(layers())
    with pytest.raises(UserError, match="hold no numbers but zeros"):
        found(Pruning(), FakeGraph([linear("a", stored=torch.zeros(64, 64))]), X)


@pytest.mark.parametrize("pattern", ["unstructured", "4x1"])
def test_the_whole_has_the_sparsity_asked_for_and_delicate_layers_less(pattern: str) -> None:
    step = Prune(allocation="sensitivity", sparsity=0.6, pattern=pattern)
    after = step.apply(layers(), Context(calibration=[(X,)])).graph.sites(WeightSite)
    zeros = [int((site.weight == 0).sum()) for site in after]
    unit = 4 if pattern == "4x1" else 1
    assert sum(zeros) == unit * round(0.6 * 3 * 64 * 64 / unit)
    assert zeros == sorted(zeros, reverse=True)
    assert zeros[0] > zeros[2]


def test_hosts_agree() -> None:
    gains = []
    for host in HOSTS:
        on = graph(host, "transformer")
        sites = [site for site in on.sites(WeightSite) if site.name in ("query", "fc1")]
        context = Context(calibration=[(model("transformer")[1],)])
        values = [value for _, value in measured(Pruning(), on, sites, context, levels=(0.5,))]
        gains.append([value.gain for value in values if isinstance(value, Sensitivity)])
    assert len(gains[0]) == 2
    assert gains[0] == pytest.approx(gains[1], rel=1e-3)


class Deaf(FakeGraph):
    """Its output knows only the first half of the layer's rows."""

    def run(self, inputs, taps=()) -> Run:
        [y] = super().run(inputs, taps).outputs
        return Run((y[..., :32],), {})

    def copy(self) -> Deaf:
        return Deaf(tuple(self._sites.values()))


def test_gains_are_of_what_the_criterion_would_do_not_of_noise() -> None:
    """The rows that the model does not hear are small, so that magnitude takes those: the model's error stays 0."""
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(2)).sign()
    weight[32:] *= 0.5
    sensitivity = found(Pruning(), Deaf([linear("a", stored=weight)]), X)["a"]
    assert isinstance(sensitivity, Sensitivity)
    assert sensitivity.gain == 0.0
    by_rows = found(Pruning(criterion="wanda"), Deaf([linear("a", stored=weight)]), X)["a"]
    assert isinstance(by_rows, Sensitivity)
    assert by_rows.gain > 0.5
