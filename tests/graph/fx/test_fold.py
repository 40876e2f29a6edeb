"""What is computed once, and what must not be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from sparsecc.graph.fx.fold import FOLDED_FLOAT_BYTES
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Conv2d, Linear
from tests.tolerance import assert_close


def _targets(graph: FxGraph) -> list[str]:
    return [str(node.target) for node in graph.module.graph.nodes if node.op == "call_function"]


def test_a_split_projection_becomes_layers() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mha = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.mha(x, y, y + 1, need_weights=False)[0]

    module, inputs = Cross().eval(), (torch.randn(2, 5, 8), torch.randn(2, 6, 8))
    graph = FxGraph.from_module(module, inputs)
    assert [(site.name, site.shared) for site in graph.sites(Linear)] == [
        ("mha.in_proj_weight", False),
        ("mha.in_proj_weight_1", False),
        ("mha.in_proj_weight_2", False),
        ("mha.out_proj", False),
    ]
    assert "mha.in_proj_weight" not in dict(graph.module.named_parameters())
    assert_close(graph.run(inputs).outputs[0], module(*inputs).detach())


def test_folded_weights_can_be_trained() -> None:
    module = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    graph = FxGraph.from_module(module, (torch.randn(2, 8),))
    assert [name for name, _ in graph.module.named_parameters()] == ["bias", "weight"]


def test_compressed_weights_stay_compressed() -> None:
    class Int8(nn.Module):
        weight: Tensor

        def __init__(self) -> None:
            super().__init__()
            rows = FOLDED_FLOAT_BYTES // 4 // 64 + 1
            self.register_buffer("weight", torch.randint(-127, 127, (rows, 64), dtype=torch.int8))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight.float() * 0.01)

    graph = FxGraph.from_module(Int8(), (torch.randn(2, 64),))
    assert {str(tensor.dtype) for tensor in graph.module.buffers()} == {"torch.int8"}
    assert graph.sites(Linear) == []


def test_random_numbers_are_drawn_on_every_run() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand(3)

    graph, x = FxGraph.from_module(Noisy(), (torch.zeros(2, 3),)), torch.zeros(2, 3)
    assert not torch.equal(graph.run((x,)).outputs[0], graph.run((x,)).outputs[0])


def test_batch_norm_moves_into_the_layer_before_it() -> None:
    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.fc, self.norm1 = nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)
            self.tokens, self.norm2 = nn.Linear(6, 6), nn.BatchNorm1d(5)
            for norm in (self.norm, self.norm1, self.norm2):
                assert norm.running_mean is not None and norm.running_var is not None
                norm.running_mean.uniform_(-1, 1)
                norm.running_var.uniform_(1, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm1(self.fc(self.norm(self.conv(x)).mean((2, 3))))
            return self.norm2(self.tokens(y.unsqueeze(1).expand(-1, 5, -1)))

    module, x = Norms().eval(), torch.randn(2, 3, 8, 8)
    graph = FxGraph.from_module(module, (x,))
    assert_close(graph.run((x,)).outputs[0], module(x).detach())
    norms = [target for target in _targets(graph) if "batch_norm" in target]
    assert len(norms) == 1, "along tokens a batch norm is no scale of the outputs"
    assert graph.sites(Conv2d)[0].bias is not None
    assert not torch.equal(graph.sites(Conv2d)[0].weight, module.conv.weight), "the module's own weight is not written"


def test_a_batch_norm_that_others_look_past_stays() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y + self.norm(y)

    graph = FxGraph.from_module(Branch(), (torch.randn(2, 3, 4, 4),))
    assert any("batch_norm" in target for target in _targets(graph))


def test_an_added_vector_is_a_bias() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 6, bias=False)
            self.b, self.rows = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(5, 6))

        def forward(self, x: Tensor) -> Tensor:
            return (self.b + self.fc(x)) * (self.rows + self.fc(x))

    module, x = Added(), torch.randn(2, 5, 4)
    graph = FxGraph.from_module(module, (x,))
    first, second = graph.sites(Linear)
    assert (first.bias is not None, second.bias is not None) == (True, False)
    assert_close(graph.run((x,)).outputs[0], module(x).detach())


@pytest.mark.filterwarnings("ignore:The tensor attribute")
def test_a_computed_weight_keeps_its_modules_name() -> None:
    class Masked(nn.Linear):
        mask: Tensor

        def __init__(self) -> None:
            super().__init__(8, 8)
            self.register_buffer("mask", torch.rand(8, 8) > 0.5)
            self.down, self.up = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(8, 2))

        def forward(self, input: Tensor) -> Tensor:
            return nn.functional.linear(input, self.mask * (self.weight + self.up @ self.down), self.bias)

    class Kernel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(4, 3, 2, 2))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(x, self.kernel - self.kernel.mean())

    utils = nn.utils
    layers = nn.Sequential(
        prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.75),
        utils.weight_norm(nn.Linear(8, 8)),
        utils.spectral_norm(nn.Linear(8, 8)),
        utils.parametrizations.orthogonal(nn.Linear(8, 8)),
        Masked(),
    ).eval()
    images = nn.Sequential(prune.l1_unstructured(nn.Conv2d(3, 3, 1), "weight", 0.5), nn.BatchNorm2d(3), Kernel(), nn.BatchNorm2d(4)).eval()
    for module, x, names in (
        (layers, torch.randn(2, 8), ["0", "1", "2", "3", "4"]),
        (images, torch.randn(2, 3, 4, 4), ["0", "2.kernel"]),
    ):
        graph = FxGraph.from_exported(torch.export.export(module, (x,)))
        assert [site.name for site in graph.sites()] == names
        assert_close(graph.run((x,)).outputs[0], module(x).detach())
    assert not any("batch_norm" in target for target in _targets(graph))
    assert all(parameter.requires_grad for parameter in graph.module.parameters())
