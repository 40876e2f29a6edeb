"""Top-1 by hand, and that the benchmark judges the model that it prunes."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.accuracy import vit
from benchmarks.accuracy.common import Sizes
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import WeightSite


def test_top1_by_hand() -> None:
    images = torch.eye(4).reshape(4, 1, 2, 2)
    graph = FxGraph.from_module(nn.Flatten(), (images,))
    assert vit.figures(graph, images, torch.tensor([0, 1, 2, 0])) == {"top-1": 0.75}


def test_the_blocks_are_pruned_and_nothing_else() -> None:
    subject = vit.load(Sizes(samples=40, held_out=72))
    assert [len(images) for (images,) in subject.calibration] == [32, 8]
    assert subject.figures(subject.graph)["top-1"] > 0.8
    sites = subject.graph.sites(WeightSite, tuple(vit.BLOCKS["targets"]))
    assert len(sites) == 24 and len(subject.graph.sites(WeightSite)) == 26  # patches and head beside them
    zeroed = subject.graph.copy()
    for site in sites:
        zeroed.set_weight(site, torch.zeros_like(site.weight))
    assert subject.figures(zeroed)["top-1"] < 0.5
