"""BERT-base (Devlin et al. 2019): its shapes, random weights. 12 layers × 768, 12 heads, 110 M parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from models._random import SEED, randomize, token_ids
from models._recipes import prune_and_pack

TOKENS = 128
VOCABULARY = 30522


def build() -> nn.Module:
    """BertModel: (input_ids, attention_mask) -> last_hidden_state f32[batch, tokens, 768]."""
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=VOCABULARY, attn_implementation="sdpa")  # the defaults are BERT-base
    return randomize(BertModel(config, add_pooling_layer=False))


def example_inputs(batch: int = 1, tokens: int = TOKENS) -> tuple[Tensor, Tensor]:
    """(input_ids, attention_mask), int64[batch, tokens], nothing masked."""
    return _sample(batch, tokens, SEED)


def calibration(count: int, tokens: int = TOKENS, batch: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """Uniform tokens: enough to exercise calibrated passes, meaningless for accuracy, as the weights are."""
    for i in range(count):
        yield _sample(batch, tokens, SEED + 1 + i)


def recipe(pattern: str = "4x1", sparsity: float = 0.7) -> dict[str, Any]:
    """Every linear of the encoder. The weights are random, so the criterion is magnitude: any mask is as good."""
    return prune_and_pack([r"re:encoder\..*"], pattern, sparsity)


def _sample(batch: int, tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    return token_ids(batch, tokens, VOCABULARY, seed), torch.ones(batch, tokens, dtype=torch.int64)
