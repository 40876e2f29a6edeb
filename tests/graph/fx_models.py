"""Small torch modules that each hold something a host can stumble over."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.graph.fx.graph import FxGraph


class TwoLayers(nn.Module):
    """An Mlp."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class ConvNet(nn.Module):
    """Batch norm, in-place activations, 'same' padding, groups, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.grouped = nn.Conv2d(8, 8, 3, padding="same", groups=2)
        self.uneven = nn.Conv2d(8, 8, (2, 3), padding="same", dilation=(1, 2))
        self.act = nn.Hardswish()
        self.drop = nn.Dropout()
        self.head = nn.Linear(8, 5)
        with torch.no_grad():
            assert self.norm.running_mean is not None and self.norm.running_var is not None
            self.norm.running_mean.uniform_(-1, 1)
            self.norm.running_var.uniform_(1, 2)
            self.norm.weight.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm(self.stem(x)))
        y = self.act(self.uneven(functional.relu6(self.grouped(y))))
        return self.head(self.drop(y.mean((2, 3))))


class Tied(nn.Module):
    """One weight under two names, one module called twice, one embedding that is a head too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 8)
        self.twice, self.same, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.own = nn.Linear(8, 8)
        self.same.weight = self.twice.weight
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.own(self.same(self.twice(self.twice(self.embed(ids))))))


class ManyOutputs(nn.Module):
    """Nested outputs, None, a constant, a keyword argument that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor, twice: bool = False, *, shift: Tensor) -> dict[str, Any]:
        y = self.fc(x) + shift
        y = y * 2 if twice else y
        return {"first": y, "rest": [None, (y.sum(-1), 3)]}


class Spellings(nn.Module):
    """Layers that are no nn.Linear: in_proj of nn.MultiheadAttention, weights [in, out], a transposed one, one computed from inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.in_out = nn.Parameter(torch.randn(8, 12))
        self.out_in = nn.Parameter(torch.randn(8, 12))
        self.added = nn.Parameter(torch.randn(12))
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(x, x, x, need_weights=False)
        y = functional.silu(y @ self.in_out + self.added) @ self.out_in.T
        return self.normed(y) @ x.transpose(1, 2)


def bert(attention: str = "sdpa", layers: int = 1) -> nn.Module:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64}
    how: dict[str, Any] = {**sizes, "attn_implementation": attention}
    return BertModel(BertConfig(num_hidden_layers=layers, **how)).eval()


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
    }
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, use_cache=False, tie_word_embeddings=True, **sizes)).eval()


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 16, "patch_size": 8}
    return ViTModel(ViTConfig(num_hidden_layers=1, **sizes)).eval()


def tokens(batch: int = 1, length: int = 12) -> dict[str, Tensor]:
    """input_ids and attention_mask, the last tokens padding."""
    ids = torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[:, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@cache
def case(name: str) -> tuple[Any, Any, FxGraph]:
    """A model, inputs and its graph. Shared by the tests: rewrite copies only."""
    torch.manual_seed(0)
    module, inputs = {
        "mlp": lambda: (TwoLayers(), (torch.randn(3, 8),)),
        "conv": lambda: (ConvNet(), (torch.randn(1, 3, 16, 16),)),
        "tied": lambda: (Tied(), (torch.randint(0, 8, (2, 5)),)),
        "spellings": lambda: (Spellings(), (torch.randn(2, 5, 8),)),
        "bert": lambda: (bert(), tokens()),
        "bert_eager": lambda: (bert("eager"), tokens()),
        "llama": lambda: (llama(), {"input_ids": tokens()["input_ids"]}),
        "vit": lambda: (vit(), (torch.randn(1, 3, 16, 16),)),
    }[name]()
    module.eval()
    return module, inputs, FxGraph.from_module(module, inputs)
