"""Blocks divide a model, and one after the other they compute what it computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsecc.graph.base import Differentiable
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import WeightSite
from tests.laws.hosts import MODELS, graph, samples
from tests.tolerance import assert_close

every_model = pytest.mark.parametrize("name", MODELS)


def differentiable(name: str) -> Differentiable:
    found = graph("fx", name)
    assert isinstance(found, Differentiable)
    return found


@every_model
def test_all_layers_in_execution_order(name: str) -> None:
    whole = differentiable(name)
    blocks = [block.sites for block in whole.blocks(samples(name))]
    assert [site for block in blocks for site in block] == [site.name for site in whole.sites(WeightSite)]
    assert 1 < len(blocks) < len(whole.sites(WeightSite))
    assert all(len(block) > 1 for block in blocks[:-1])


@every_model
def test_the_last_block_gives_what_the_model_gives(name: str) -> None:
    whole = differentiable(name)
    found = [[block.run(index, {}) for index in range(2)] for block in whole.blocks(samples(name))]
    assert all(len(values) == 1 for block in found for values in block)
    for values, sample in zip(found[-1], samples(name), strict=True):
        assert_close(values[0], whole.run(sample).outputs[0])


@every_model
def test_other_weights_count_in_their_block_alone_until_they_are_set(name: str) -> None:
    """Their gradients are those of the whole model where the block is its end."""
    whole, sample = differentiable(name), samples(name)[:1]
    changed, runs = whole.copy(), list[tuple[str, Tensor, Tensor]]()
    for block in changed.blocks(sample):
        [site] = whole.sites(WeightSite, block.sites[:1])
        halved = (site.weight * 0.5).requires_grad_()
        before, [with_halved], after = block.run(0, {}), block.run(0, {site.name: (halved, None)}), block.run(0, {})
        assert torch.equal(before[0], after[0])
        assert not torch.equal(before[0], with_halved)
        [by_block] = torch.autograd.grad(with_halved.square().sum(), halved)
        assert by_block.abs().max() > 0
        changed.set_weight(changed.sites(WeightSite, (site.name,))[0], halved.detach())
        assert_close(block.run(0, {})[0], with_halved.detach())
        runs.append((site.name, halved, by_block))
    last, halved, by_block = runs[-1]
    [y] = changed.run_with(sample[0], {last: (halved, None)}).outputs
    assert_close(torch.autograd.grad(y.square().sum(), halved)[0], by_block)


def test_a_block_of_a_transformer_is_its_attention_or_its_mlp() -> None:
    """One tensor leaves each; what is only an input, as a mask, does not count."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu", norm_first=False)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    whole = FxGraph.from_module(encoder, (torch.randn(2, 5, 16),))
    kinds = [[site.rpartition(".")[2] for site in block.sites] for block in whole.blocks([(torch.randn(2, 5, 16),)])]
    assert [block[-1] for block in kinds] == ["out_proj", "linear2"] * 2
