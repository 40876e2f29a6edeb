"""What fits in the place of a site, on sites in memory."""

from __future__ import annotations

from dataclasses import replace

import torch

from sparsecc.formats import storing
from sparsecc.graph.channels import Channels
from sparsecc.graph.fits import misfit, misfit_of_order, misfit_of_rest
from sparsecc.graph.sites import Attention
from sparsecc.ops.sparse_conv2d.torch import SparseConv2d
from sparsecc.ops.sparse_linear.torch import SparseLinear
from sparsecc.patterns import parse
from tests.passes.fake import conv, linear

PACKED = storing(parse("unstructured")).pack(torch.eye(4), torch.eye(4) != 0)
ATTENTION = Attention(name="a", heads=2, kv_heads=2, head_dim=4, scale=0.5)


def test_an_operator_of_the_kind_and_size_of_a_layer_fits() -> None:
    assert misfit(linear("a", 4, 4), SparseLinear(PACKED)) is None
    assert misfit(linear("a", 4, 8), SparseLinear(PACKED)) == "is 4×8, the operator 4×4"
    assert misfit(linear("a", 4, 4), SparseConv2d(PACKED)) == "is of kind Linear, SparseConv2d takes the place of Conv1d or Conv2d"
    assert misfit(linear("a", 4, 4), SparseLinear(PACKED, torch.ones(3))) == "has 4 rows, the operator a bias of shape (3,)"
    grouped = conv("c", 4, channels=8, kernel=1, groups=2)
    assert misfit(grouped, SparseConv2d(PACKED)) == "is a convolution in 2 groups, for which there is no operator"


def test_an_attention_that_is_bound_or_masked_stays() -> None:
    from tests.laws.test_hosts import blocks

    assert misfit(ATTENTION, blocks(2)) is None
    assert misfit(ATTENTION, blocks(3)) == "has 2 heads, the operator 3"
    assert misfit(replace(ATTENTION, bound="its scores are read"), blocks(2)) == "is left as it is: its scores are read"
    assert misfit(replace(ATTENTION, has_mask=True), blocks(2)) == "has a mask of tokens in the model's order, the operator other orders"
    assert misfit(replace(ATTENTION, causal=True), blocks(2)) == "is causal, the operator is not"


def test_an_order_names_each_column_once() -> None:
    assert misfit_of_order(torch.tensor([1, 0, 2]), 3) is None
    for wrong in (torch.tensor([1, 0]), torch.tensor([1, 1, 2]), torch.tensor([[1, 0, 2]]), torch.tensor([1.0, 0.0, 2.0])):
        assert misfit_of_order(wrong, 3) == "an order of its 3 inputs names each of them once"


def test_what_is_left_of_channels_fits_their_reader() -> None:
    channels = Channels(4, (linear("first", 8, 6),), linear("second", 6, 8))
    units = torch.tensor([0, 3])
    assert misfit_of_rest(channels, units, torch.ones(6, 4), None) is None
    assert misfit_of_rest(channels, units + 1, torch.ones(6, 4), None) == "the units to keep are some of 0 to 3, ascending"
    assert misfit_of_rest(channels, units.flip(0), torch.ones(6, 4), None) == "the units to keep are some of 0 to 3, ascending"
    assert misfit_of_rest(channels, units, torch.ones(6, 8), None) == "the new weight of 'second' has shape (6, 8), it needs (6, 4)"
    assert misfit_of_rest(channels, units, torch.ones(6, 4), torch.ones(6)) == "'second' has no bias, the new one is (6,)"
