"""What sites are called, on this host and the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparsecc.attention.base import BlockMap, Grid, required
from sparsecc.errors import InputError, UserError
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.fx.sites import mlp_name
from sparsecc.graph.sites import Attention, Conv1d, Linear
from sparsecc.ops.block_attention.torch import BlockAttention
from sparsecc.passes.pack import Pack
from sparsecc.passes.prune import Prune
from tests.tolerance import assert_close


def _named(name: str) -> Linear:
    return Linear(name=name, stored=torch.zeros(1, 1))


def test_an_mlp_is_called_after_the_module_that_holds_it() -> None:
    assert mlp_name(_named("layers.0.mlp.fc1"), _named("layers.0.mlp.fc2")) == "layers.0.mlp"
    assert mlp_name(_named("layer.0.intermediate.dense"), _named("layer.0.output.dense")) == "layer.0.mlp"
    assert mlp_name(_named("fc1"), _named("fc2")) == "mlp"


def test_names_are_unique_and_outlive_rewrites() -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.fc_1 = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc_1(self.fc(self.fc(x)))

    graph = FxGraph.from_module(Repeated(), (torch.randn(2, 4),))
    names = [site.name for site in graph.sites()]
    assert names == ["fc", "fc_1", "fc_1_1"]
    graph.set_weight(graph.sites(Linear)[2], torch.zeros(4, 4))
    assert [site.name for site in graph.copy().sites()] == names


def test_only_an_mlp_whose_neurons_nobody_else_reads() -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            neurons = self.fc1(x).relu()
            return self.fc2(neurons) + neurons

    graph = FxGraph.from_module(Peeking(), (torch.randn(2, 4),))
    assert [site.kind for site in graph.sites()] == ["Linear", "Linear"]


class Attending(nn.Module):
    """A map of six heads over a grid of 2 × 3 × 4; outputs that view attention's in several ways."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        y = nn.functional.scaled_dot_product_attention(q, k, v, scale=0.4)
        return y.reshape(-1, 24, 8), y.transpose(1, 2).reshape(-1, 24, 48)


@pytest.mark.parametrize("tokens_outermost", [False, True])
def test_attention_is_replaced_whatever_views_follow(tokens_outermost: bool) -> None:
    q, k, v = torch.randn(3, 2, 6, 24, 8)
    if tokens_outermost:
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    grid = Grid(2, 3, 4)
    keep = required(grid, 5).expand(6, 5, 5).contiguous()
    op = BlockAttention(BlockMap(grid, 5, torch.arange(6).to(torch.uint8), keep), 0.4)
    graph = FxGraph.from_module(Attending(), (q, k, v))
    [site] = graph.sites(Attention)
    assert (site.heads, site.head_dim, site.scale, site.bound, site.grid) == (6, 8, 0.4, None, None)
    graph.replace(site, op)
    expected = op.reference(q, k, v)
    for found in (graph, graph.copy()):
        by_head, by_token = found.run((q, k, v)).outputs
        assert_close(by_head, expected.reshape(-1, 24, 8))
        assert_close(by_token, expected.transpose(1, 2).reshape(-1, 24, 48))
        [sparse] = found.sites(Attention)
        assert (sparse.name, sparse.grid, sparse.scale) == (site.name, grid, 0.4)


def test_a_model_of_any_length_is_reordered_for_one() -> None:
    class Free(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(q, k, v)

    q, k, v = torch.randn(3, 2, 6, 24, 8)
    graph = FxGraph.from_module(Free(), (q, k, v))
    [site] = graph.sites(Attention)
    assert (site.tokens, site.kv_tokens) == (None, None)
    keep = torch.ones(6, 5, 5, dtype=torch.bool)
    graph.replace(site, BlockAttention(BlockMap(Grid(2, 3, 4), 5, torch.arange(6).to(torch.uint8), keep), site.scale))
    assert graph.run((q, k, v)).outputs[0].shape == q.shape
    with pytest.raises(InputError, match="has a block map for 24 tokens, it is given 7"):
        graph.run((q[:, :, :7], k[:, :, :7], v[:, :, :7]))


@pytest.mark.parametrize(
    ("shapes", "dropout", "bound"),
    [
        (((6, 24, 8),) * 3, 0.0, "its q is 3-D"),
        (((2, 6, 24, 8), (2, 6, 24, 8), (2, 6, 24, 16)), 0.0, "v has 16 channels for each head, q has 8"),
        (((2, 6, 24, 8),) * 3, 0.1, "it drops 10% of its probabilities"),
    ],
)
def test_why_attention_cannot_be_replaced(shapes: tuple[tuple[int, ...], ...], dropout: float, bound: str) -> None:
    class Odd(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)

    program = torch.export.export(Odd(), tuple(torch.randn(shape) for shape in shapes), strict=False)
    graph = FxGraph.from_exported(program)
    [site] = graph.sites(Attention)
    assert site.bound is not None and site.bound.startswith(bound)
    grid = Grid(2, 3, 4)
    op = BlockAttention(BlockMap(grid, 24, torch.zeros(6, dtype=torch.uint8), torch.ones(6, 1, 1, dtype=torch.bool)), 1.0)
    with pytest.raises(UserError, match=bound):
        graph.replace(site, op)


def test_a_convolution_along_a_line_is_one_of_images_of_height_1(tmp_path: Path) -> None:
    """Packed, its lines get a height and lose it again; the file that holds it reads back as it was."""
    module = nn.Sequential(nn.Conv1d(4, 8, 3, 2, 1, 2, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 6, 4, padding="same"))
    x = torch.randn(3, 4, 21)
    graph = FxGraph.from_module(module.eval(), (x,))
    first, second = graph.sites(Conv1d)
    assert (first.shape, first.kernel, first.stride, first.dilation, first.padding) == ((8, 4, 3), (1, 3), (1, 2), (1, 2), (0, 1, 0, 1))
    assert (first.activation, first.bias is not None, second.padding) == ("relu", True, (0, 1, 0, 2))
    assert_close(graph.run((x,)).outputs[0], module(x))
    [(entered,)] = [graph.run((x,), ["0"]).taps["0"]]
    assert first.images(entered).shape == (3, 4, 1, 21)
    packed = Pack().apply(Prune(sparsity=0.7, min_weights=0).apply(graph).graph).graph
    masked = Prune(sparsity=0.7, min_weights=0).apply(graph).graph
    assert_close(packed.run((x,)).outputs[0], masked.run((x,)).outputs[0])
    packed.save(tmp_path / "packed.pt2")
    again = FxGraph.load(tmp_path / "packed.pt2")
    assert [(site.kind, site.name, site.shape) for site in again.sites(Conv1d)] == [
        (site.kind, site.name, site.shape) for site in (first, second)
    ]
    assert all(site.packed is not None for site in again.sites(Conv1d))
