from __future__ import annotations

import torch

from sparsecc.criteria.base import project_of
from sparsecc.criteria.fisher import Fisher
from sparsecc.patterns import parse


def test_the_mean_over_samples_of_squares() -> None:
    gradients = torch.tensor([[[1.0, 0.0]], [[-3.0, 0.5]]])
    score = Fisher().score(torch.tensor([[-2.0, 4.0]]), {"gradients": gradients}, 0)
    torch.testing.assert_close(score, torch.tensor([[4 * 5.0, 16 * 0.125]]), rtol=3e-5, atol=0)


def test_where_no_output_depends_on_weights_magnitude_decides() -> None:
    weight = torch.tensor([[1.0, 0.0, -3.0, 2.0]])
    for gradients in (torch.zeros(2, 1, 4), torch.tensor([[[0.0, 0.0, 0.0, 1.0]]])):
        score = Fisher().score(weight, {"gradients": gradients}, 0)
        assert 0 == score[0, 1] < score[0, 0] < score[0, 2]


def test_a_small_weight_on_which_outputs_depend_stays() -> None:
    weight, gradients = torch.tensor([[0.1, 3.0, 1.0, 2.0]]), torch.tensor([[[50.0, 0.1, 1.0, 0.1]]])
    chosen = Fisher().choose(weight, project_of(parse("unstructured")), 0.5, {"gradients": gradients}, 0)
    assert chosen.keep.tolist() == [[True, False, True, False]]
    assert chosen.weight is None
