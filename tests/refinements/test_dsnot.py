from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsecc.criteria.base import project_of
from sparsecc.criteria.wanda import Wanda
from sparsecc.passes._calibrate import statistics
from sparsecc.patterns import parse
from sparsecc.patterns.base import Pattern
from sparsecc.refinements.dsnot import Dsnot

UNSTRUCTURED = project_of(parse("unstructured"))
PATTERNS = ["unstructured", "4x1", "2x3", "1x4", "2:4", "3:6"]


def problem(rows: int = 12, cols: int = 48, tokens: int = 300) -> tuple[Tensor, Tensor]:
    """A weight, and inputs that are not zero on average."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, cols, generator=generator) + 2 * torch.randn(cols, generator=generator)
    return torch.randn(rows, cols, generator=generator), x


def stats_of(means: list[float], variances: list[float], norms: list[float]) -> dict[str, Tensor]:
    return {"means": torch.tensor(means), "variances": torch.tensor(variances), "norms": torch.tensor(norms)}


def test_the_swap_by_hand() -> None:
    """e = 1·2 + 1·1 = 3. The first weight takes 2 of it off, at a variance of 1; the second only 1, at the same variance. Of those that
    are kept the third adds 1 to e when it goes, which is none of the ones that may; the last is worth less than the fourth."""
    weight, keep = torch.tensor([[1.0, 1.0, 1.0, 3.0, 2.0]]), torch.tensor([[False, False, True, True, True]])
    stats = stats_of([2.0, 1.0, 1.0, -0.1, -0.1], [1.0] * 5, [1.0] * 5)
    once = Dsnot(cycles=1).refine(weight, keep, UNSTRUCTURED, stats)
    assert once.tolist() == [[True, False, True, True, False]]
    assert keep.tolist() == [[False, False, True, True, True]]


def test_a_steady_input_comes_first() -> None:
    weight, keep = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[False, False, True]])
    stats = stats_of([2.0, 1.0, -0.5], [9.0, 1.0, 1.0], [1.0] * 3)
    assert Dsnot(cycles=1).refine(weight, keep, UNSTRUCTURED, stats).tolist() == [[False, True, False]]


def test_it_stops_before_the_error_rises() -> None:
    """To regrow the first weight and to prune the second would turn e = 1 into -3."""
    weight, keep = torch.tensor([[1.0, 1.0]]), torch.tensor([[False, True]])
    stats = stats_of([1.0, -3.0], [1.0, 1.0], [1.0, 1.0])
    assert torch.equal(Dsnot().refine(weight, keep, UNSTRUCTURED, stats), keep)


@pytest.mark.parametrize("pattern", map(parse, PATTERNS), ids=str)
def test_outputs_stay_where_they_were_on_average_in_the_same_pattern(pattern: Pattern) -> None:
    weight, x = problem()
    stats = statistics([x], ("means", "variances", "norms"))
    keep = Wanda().choose(weight, project_of(pattern), 0.5, stats, 0).keep
    found = Dsnot().refine(weight, keep, project_of(pattern), stats)
    assert pattern.holds(found) is None
    assert torch.equal(found.sum(1), keep.sum(1))

    def errors(mask: Tensor) -> Tensor:
        """|E[(W - W')x]| of each row of blocks."""
        return ((weight - weight * mask) @ x.T).mean(1).unflatten(0, (-1, pattern.part[0])).norm(dim=1)

    assert (errors(found) <= errors(keep) * (1 + 1e-5)).all()
    assert errors(found).mean() < 0.6 * errors(keep).mean()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_more_cycles_never_hurt_and_twice_is_once_on_what_is_pruned(pattern: str) -> None:
    weight, x = problem()
    project, stats = project_of(parse(pattern)), statistics([x], ("means", "variances", "norms"))
    keep = Wanda().choose(weight, project, 0.5, stats, 0).keep
    errors = []
    for cycles in (0, 1, 3, 10, 50):
        found = Dsnot(cycles=cycles).refine(weight, keep, project, stats)
        errors.append(float(((weight - weight * found) @ x.T).mean(1).norm()))
    assert errors == sorted(errors, reverse=True)
    assert torch.equal(Dsnot().refine(weight * found, found, project, stats), found)


def test_inputs_that_never_change() -> None:
    weight, x = problem()
    x[:, :] = x[0]
    stats = statistics([x], ("means", "variances", "norms"))
    keep = Wanda().choose(weight, UNSTRUCTURED, 0.5, stats, 0).keep
    assert int(Dsnot().refine(weight, keep, UNSTRUCTURED, stats).sum()) == int(keep.sum())
