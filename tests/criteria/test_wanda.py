from __future__ import annotations

import torch

from sparsecc.criteria.base import Project
from sparsecc.criteria.wanda import Wanda
from sparsecc.formats.block import Block
from sparsecc.formats.csr import Csr


def test_a_small_weight_on_a_loud_input_stays() -> None:
    weight = torch.tensor([[3.0, 1.0], [3.0, 0.1]])
    stats = {"norms": torch.tensor([1.0, 10.0])}
    chosen = Wanda().choose(weight, Project(Csr().project), 0.5, stats, 0)
    assert chosen.keep.tolist() == [[False, True], [True, False]]
    assert chosen.weight is None


def test_each_output_keeps_its_share() -> None:
    weight = torch.randn(8, 10) * torch.logspace(-3, 3, 8)[:, None]
    chosen = Wanda().choose(weight, Project(Csr().project), 0.7, {"norms": torch.ones(10)}, 0)
    assert chosen.keep.sum(1).tolist() == [3] * 8


def test_each_row_of_blocks_keeps_its_share_and_odd_shares_add_up() -> None:
    format = Block(4, 1)
    weight = torch.randn(16, 5) * torch.logspace(-3, 3, 16)[:, None]
    project = Project(format.project, *format.part, format.unit_size)
    keep = Wanda().choose(weight, project, 0.5, {"norms": torch.ones(5)}, 0).keep
    assert format.holds(keep) is None
    assert sorted(keep[::4].sum(1).tolist()) == [2, 2, 3, 3]
