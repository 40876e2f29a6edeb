"""torch's own encoders, in a trace as outside of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsecc.graph.fx import nested
from sparsecc.graph.fx.graph import FxGraph
from tests.tolerance import assert_close


class Encoder(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.causal = causal

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(5) if self.causal else None
        return self.encoder(x, mask=mask, src_key_padding_mask=padding)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("causal", [False, True])
def test_padding(causal: bool) -> None:
    module, x, padding = Encoder(causal).eval(), torch.randn(2, 5, 8), torch.arange(5) >= torch.tensor([[5], [3]])
    with torch.no_grad():
        expected = module(x, padding)
    assert expected[1, 3:].any() == causal, "without a mask torch leaves padded tokens out"
    with nested.traceable(module):
        program = torch.export.export(module, (x, padding), strict=False)
    assert_close(FxGraph.from_exported(program).run((x, padding)).outputs[0], expected)
    assert not module.encoder.layers[-1]._forward_hooks
