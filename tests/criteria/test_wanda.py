from __future__ import annotations

import torch

from sparsecc.criteria.base import project_of, within_outputs
from sparsecc.criteria.wanda import Wanda
from sparsecc.patterns import parse


def test_a_small_weight_on_a_loud_input_stays() -> None:
    weight = torch.tensor([[3.0, 1.0], [3.0, 0.1]])
    stats = {"norms": torch.tensor([1.0, 10.0])}
    chosen = Wanda().choose(weight, within_outputs(project_of(parse("unstructured"))), 0.5, stats, 0)
    assert chosen.keep.tolist() == [[False, True], [True, False]]
    assert chosen.weight is None
    assert Wanda.compares == "output"
