"""What holds for every criterion under every pattern."""

from __future__ import annotations

import pytest
import torch

from sparsecc.criteria.base import STATISTICS, Criterion, project_of
from sparsecc.passes._calibrate import statistics
from sparsecc.patterns import parse
from sparsecc.patterns.base import Pattern
from tests.laws.members import CRITERIA, PATTERNS
from tests.laws.test_patterns import smallest

every_criterion = pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA.keys())
every_pattern = pytest.mark.parametrize("pattern", PATTERNS, ids=str)


def weight_for(pattern: Pattern) -> torch.Tensor:
    rows, cols = (8 * unit for unit in smallest(pattern))
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(3))


def stats_for(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(4 * weight.shape[1], weight.shape[1], generator=generator)
    return {**statistics([x], tuple(STATISTICS)), "gradients": torch.randn(10, *weight.shape, generator=generator)}


@every_pattern
@every_criterion
def test_the_mask_has_the_pattern(criterion: Criterion, pattern: Pattern) -> None:
    weight = weight_for(pattern)
    chosen = criterion.choose(weight, project_of(pattern), 0.6, stats_for(weight), seed=1)
    asked = 0.6 if pattern.fixed_sparsity is None else pattern.fixed_sparsity
    total = weight.numel() // pattern.unit_size
    assert pattern.holds(chosen.keep) is None
    assert int(chosen.keep.sum()) // pattern.unit_size == total - round(asked * total)
    assert (chosen.weight is not None) == criterion.updates
    assert chosen.weight is None or (chosen.weight.shape == weight.shape and chosen.weight.dtype == weight.dtype)


@every_pattern
@every_criterion
def test_the_same_twice_and_nothing_modified(criterion: Criterion, pattern: Pattern) -> None:
    weight = weight_for(pattern)
    before, stats = weight.clone(), stats_for(weight)
    first = criterion.choose(weight, project_of(pattern), 0.6, stats, seed=1)
    second = criterion.choose(weight.t().contiguous().t(), project_of(pattern), 0.6, stats, seed=1)
    assert torch.equal(first.keep, second.keep)
    assert torch.equal(weight, before)


@every_criterion
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scores_are_finite_and_one_per_weight(criterion: Criterion, dtype: torch.dtype) -> None:
    weight = torch.randn(16, 24, generator=torch.Generator().manual_seed(3)).to(dtype)
    score = criterion.score(weight, stats_for(weight), seed=1)
    assert score.shape == weight.shape
    assert score.is_floating_point()
    assert score.isfinite().all()


@pytest.mark.parametrize("sparsity", [0.2, 0.5])
@pytest.mark.parametrize("pattern", ["unstructured", "4x1"])
@pytest.mark.parametrize("name", [name for name, criterion in CRITERIA.items() if {"norms", "hessian"} & {*criterion.needs}])
def test_inputs_that_never_come_go_first(name: str, pattern: str, sparsity: float) -> None:
    """However small the others and however large the weights; those for which there is room stay as they are."""
    generator = torch.Generator().manual_seed(5)
    weight, x = torch.randn(16, 240, generator=generator), 0.01 * torch.randn(500, 240, generator=generator)
    weight[:, ::3] *= 3
    x[:, ::3] = 0
    chosen = CRITERIA[name].choose(weight, project_of(parse(pattern)), sparsity, statistics([x], ("norms", "hessian")), seed=1)
    dead = chosen.keep[:, ::3]
    assert chosen.keep[:, 1::3].all() if sparsity < 1 / 3 else not dead.any()
    assert chosen.weight is None or torch.equal(chosen.weight[:, ::3][dead], weight[:, ::3][dead])
    # among themselves the smallest go first, so that no input goes whole because of its place
    gone, size = ~dead, weight[:, ::3].abs()
    if pattern == "unstructured" and sparsity < 1 / 3:
        parts = 1 if CRITERIA[name].compares == "output" else 16, getattr(CRITERIA[name], "columns", 240) // 3 + 1
        for some, sizes in zip(gone.split(parts[0]), size.split(parts[0]), strict=True):
            for lost, of in zip(some.split(parts[1], dim=1), sizes.split(parts[1], dim=1), strict=True):
                assert not lost.any() or of[lost].max() <= of[~lost].min()


@every_pattern
@pytest.mark.parametrize("name", [name for name, criterion in CRITERIA.items() if criterion.updates])
def test_zeros_that_are_held_stay_and_the_mask_has_the_pattern(name: str, pattern: Pattern) -> None:
    weight = weight_for(pattern)
    held = torch.rand(weight.shape, generator=torch.Generator().manual_seed(6)) < 0.3
    weight[held] = 0
    chosen = CRITERIA[name].choose(weight, project_of(pattern), 0.6, stats_for(weight), 1, held)
    assert chosen.weight is not None
    assert not chosen.keep[held].any()
    assert not chosen.weight[~chosen.keep].any()
    cover = pattern.cover(chosen.keep)
    assert isinstance(cover, torch.Tensor)
    asked = 0.6 if pattern.fixed_sparsity is None else pattern.fixed_sparsity
    assert int(cover.sum()) <= weight.numel() - round(asked * (weight.numel() // pattern.unit_size)) * pattern.unit_size
    assert chosen.weight[chosen.keep].all()
