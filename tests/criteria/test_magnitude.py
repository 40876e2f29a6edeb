from __future__ import annotations

import torch

from sparsecc.criteria.base import Project
from sparsecc.criteria.magnitude import Magnitude
from sparsecc.patterns.unstructured import Unstructured


def test_larger_weights_stay_whatever_their_sign() -> None:
    weight = torch.tensor([[-3.0, 1.0], [0.0, 2.0]])
    assert Magnitude().score(weight, {}, 0).tolist() == [[3, 1], [0, 2]]
    chosen = Magnitude().choose(weight, Project(Unstructured().project), 0.5, {}, 0)
    assert chosen.keep.tolist() == [[True, False], [False, True]]
    assert chosen.weight is None


def test_scores_are_float32_and_cut_off_from_autograd() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16))
    score = Magnitude().score(weight, {}, 0)
    assert score.dtype == torch.float32
    assert not score.requires_grad
