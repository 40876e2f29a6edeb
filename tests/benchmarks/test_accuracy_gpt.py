"""Perplexity by hand, and that the benchmark judges the model that it prunes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from benchmarks.accuracy import gpt
from benchmarks.accuracy.common import Sizes
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import WeightSite


class Constant(nn.Module):
    """Says of four characters the second with probability 1/2, each other with 1/6."""

    def forward(self, ids: Tensor) -> Tensor:
        return torch.tensor([1.0, 3.0, 1.0, 1.0]).log() + 0.0 * ids[..., None]


def test_perplexity_by_hand() -> None:
    ids = torch.tensor([[0, 1, 1], [1, 1, 2]])  # to be guessed: 1 1 and 1 2
    found = gpt.figures(FxGraph.from_module(Constant(), (ids[:, :-1],)), ids)
    bits = (3 * 1 + math.log2(6)) / 4
    assert found == {"perplexity": pytest.approx(2**bits), "bits per character": pytest.approx(bits)}


def test_the_blocks_are_pruned_and_nothing_else() -> None:
    subject = gpt.load(Sizes(samples=8, held_out=4))
    assert [len(ids) for (ids,) in subject.calibration] == [4, 4]
    dense = subject.figures(subject.graph)
    assert dense["perplexity"] < 6  # a uniform guess has 96
    sites = subject.graph.sites(WeightSite, tuple(gpt.BLOCKS["targets"]))
    assert len(sites) == 24 and len(subject.graph.sites(WeightSite)) == 25
    zeroed = subject.graph.copy()
    for site in sites:
        zeroed.set_weight(site, torch.zeros_like(site.weight))
    assert subject.figures(zeroed)["perplexity"] > 2 * dense["perplexity"]
