"""What holds for every metric, whatever the outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.autotune.metrics.base import HeldOut, Metric, judged, read_all
from sparsecc.errors import InputError
from tests.autotune.metrics.outputs import answers, measured, parts, pieces
from tests.laws.members import METRICS

every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
SEEDS = st.integers(0, 99)


def noisy(scores: np.ndarray, seed: int, size: float) -> np.ndarray:
    noise = np.random.default_rng(seed + 1000).normal(0, size, scores.shape)
    return (scores + noise).astype(np.float32)


def is_better(metric: Metric, first: float, second: float) -> bool:
    return first > second if metric.better == "higher" else first < second


@every_metric
@given(items=st.integers(3, 12), seed=SEEDS)
def test_equal_outputs_are_perfect(metric: Metric, items: int, seed: int) -> None:
    scores, sample = answers(items, seed)
    value = measured(metric, scores, scores.copy(), sample)
    if metric.of_one_model:
        assert value.value == value.dense and (not value.dense or value.ratio == 1)
        assert not is_better(metric, value.value, metric.perfect)
    else:
        assert value.value == metric.perfect and value.dense is None and value.ratio is None


@every_metric
@given(seed=SEEDS)
def test_the_more_noise_the_worse(metric: Metric, seed: int) -> None:
    scores, sample = answers(24, seed)
    little, much = (measured(metric, scores, noisy(scores, seed, size), sample).value for size in (0.01, 20.0))
    assert is_better(metric, little, much)
    assert not is_better(metric, much, metric.perfect)


@every_metric
@given(seed=SEEDS, sizes=st.lists(st.integers(1, 4), min_size=3, max_size=6))
def test_batches_do_not_matter(metric: Metric, seed: int, sizes: list[int]) -> None:
    scores, sample = answers(sum(sizes), seed)
    other = noisy(scores, seed, 1.0)
    whole = measured(metric, scores, other, sample)
    ours, theirs = (read_all(metric, [[piece] for piece in pieces(array, sizes)], parts(sample, sizes)) for array in (scores, other))
    assert judged(metric, ours, theirs).value == pytest.approx(whole.value, rel=1e-12)


@every_metric
def test_what_is_not_finite_is_no_better_than_noise(metric: Metric) -> None:
    scores, sample = answers(24)
    much = measured(metric, scores, noisy(scores, 0, 20.0), sample).value
    broken = measured(metric, scores, np.full_like(scores, np.nan), sample).value
    assert not math.isnan(broken) and not is_better(metric, broken, much)


@every_metric
def test_the_spread_is_seeded_and_falls_with_the_number_of_items(metric: Metric) -> None:
    spreads = []
    for items in (24, 384):
        scores, sample = answers(items)
        twice = [measured(metric, scores, noisy(scores, 0, 1.5), sample) for _ in range(2)]
        assert twice[0] == twice[1]
        spreads.append(twice[0].spread)
    assert None not in spreads
    assert 0 < spreads[1] < spreads[0] / 2  # a quarter, were it known exactly


@every_metric
def test_too_few_items_have_no_spread(metric: Metric) -> None:
    scores, sample = answers(1)
    assert metric.spread(metric.compare(*[metric.read([scores], sample)] * 2)) is None


@every_metric
def test_the_dense_outputs_may_be_judged_by(metric: Metric) -> None:
    scores, sample = answers(8)
    assert metric.refuse(metric.read([scores], sample)) is None


@every_metric
def test_an_output_without_floats_is_refused(metric: Metric) -> None:
    _, sample = answers(2)
    with pytest.raises(InputError, match="no output of the model holds floats"):
        metric.read([np.zeros((2, 3), np.int64)], sample)


@every_metric
def test_the_first_output_of_floats_counts(metric: Metric) -> None:
    scores, sample = answers(6)
    alone = metric.read([scores], sample)
    among = metric.read([np.zeros(6, np.int64), scores, -scores], sample)
    assert all(np.array_equal(a, b) for a, b in zip(alone, among, strict=True))


def test_the_spread_of_a_mean_is_its_standard_error() -> None:
    rows = np.random.default_rng(0).normal(0, 1, 400)
    spread = METRICS["cosine"].spread(rows)
    assert spread == pytest.approx(rows.std() / 20, rel=0.4)  # by 32 halves: ±13 % is one standard deviation


def test_a_sample_without_inputs_is_one_item() -> None:
    assert HeldOut({}).items == 1
