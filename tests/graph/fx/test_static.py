"""What is simpler once shapes are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Attention
from tests.graph.fx_models import ManyOutputs, case
from tests.tolerance import assert_close


class Masked(nn.Module):
    """Attention with a mask computed from sizes alone."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[2]
        ones = torch.ones(length, length, dtype=torch.bool)
        masks = {
            "all": ones,
            "causal": ones.tril(),
            "window": ones.tril().triu(-1),
            "float": torch.zeros(length, length).masked_fill(~ones.tril(), float("-inf")),
            "bias": torch.arange(length).float() * ones,
        }
        return functional.scaled_dot_product_attention(x, x, x, attn_mask=masks[self.kind])


@pytest.mark.parametrize(
    ("kind", "has_mask", "causal"),
    [("all", False, False), ("causal", False, True), ("float", False, True), ("window", True, False), ("bias", True, False)],
)
def test_constant_masks_say_what_they_mean(kind: str, has_mask: bool, causal: bool) -> None:
    module, x = Masked(kind), torch.randn(2, 3, 6, 8)
    program = FxGraph.from_module(module, (x,)).specialize((x,))
    (attention,) = FxGraph.from_exported(program).sites(Attention)
    assert (attention.has_mask, attention.causal) == (has_mask, causal)
    assert_close(program.module()(x)[0], module(x))


def test_masks_of_transformers() -> None:
    for name, causal in (("llama", True), ("vit", False)):
        _, inputs, graph = case(name)
        assert graph.sites(Attention)[0].has_mask
        (attention,) = FxGraph.from_exported(graph.specialize(inputs)).sites(Attention)
        assert (attention.has_mask, attention.causal) == (False, causal)


def test_only_tensors_are_returned() -> None:
    given = {"x": torch.randn(2, 8), "shift": torch.ones(8)}
    graph = FxGraph.from_module(ManyOutputs(), given)
    program = graph.specialize(given)
    assert [type(value) for value in program.module()(**given)] == [Tensor, Tensor]
    assert [spec.kind.name for spec in program.graph_signature.output_specs] == ["USER_OUTPUT"] * 2
