from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsecc.errors import RecipeError
from sparsecc.train.srigl import Srigl
from tests.train.views import random, view


def test_every_output_has_as_many_inputs_and_never_more_than_asked_for() -> None:
    method = Srigl(steps=100, share=0.3, salient=0.0)
    keep = method.first(view(random(), sparsity=0.77))
    for step in (10, 20, 30):
        keep = method.change(view(random() * keep, keep, random(seed=step), sparsity=0.77), step)
        assert set(keep.sum(dim=1).tolist()) == {5}  # of 24, 5.5 are asked for


def test_the_smallest_go_and_the_steepest_of_each_output_come() -> None:
    weight, gradient = random(seed=1), random(seed=2)
    method = Srigl(steps=100, share=0.25, salient=0.0)
    keep = method.first(view(weight, sparsity=0.5))
    after = method.change(view(weight * keep, keep, gradient, sparsity=0.5), 1)
    assert weight.abs()[keep & after].min() < weight.abs()[keep & ~after].max()  # a small one grew again
    smallest = (weight.abs() * keep)[keep].sort().values[int(keep.sum()) // 4]
    assert (weight.abs()[keep & ~after] < smallest).all()
    for row in range(len(keep)):
        new, still = after[row] & ~keep[row], ~after[row]
        assert not new.any() or gradient[row].abs()[new].min() > gradient[row].abs()[still].max()


def test_an_output_with_few_salient_weights_goes_for_good_and_the_others_get_its_weights() -> None:
    weight, gradient = random() + 3 * random().sign(), random(seed=2)
    weight[5] *= 1e-3
    gradient[5] *= 1e-3
    method = Srigl(steps=100, share=0.3, salient=0.3, sparsity=0.5)
    keep = method.first(view(weight))
    after = method.change(view(weight * keep, keep, gradient), 1)
    assert not after[5].any()
    assert set(after.sum(dim=1).tolist()) == {0, 12 * 16 // 15}
    gradient[5] *= 1e9
    assert not method.change(view(weight * after, after, gradient), 10)[5].any()


def test_so_many_outputs_stay_that_the_weights_have_a_place() -> None:
    weight = random()
    method = Srigl(steps=100, share=0.9, salient=1.0)
    keep = method.first(view(weight, sparsity=0.25))
    after = method.change(view(weight * keep, keep, random(seed=2), sparsity=0.25), 1)
    assert int(after.any(dim=1).sum()) >= 12
    assert int(after.sum()) == 12 * 24


def test_without_a_gradient_nothing_changes() -> None:
    keep = random() > 0
    assert torch.equal(Srigl(steps=100).change(view(random(), keep), 10), keep)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"pattern": "2:4"}, "pattern: 2:4 cannot be asked for, srigl makes its own"), ({"salient": 1.5}, "salient: 1.5 is not in")],
)
def test_options_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{message}"):
        Srigl(steps=100, **fields)
