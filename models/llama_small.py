"""A small Llama-like decoder, random weights: 12 layers × 768, 12 heads over 4 keys/values, SwiGLU 2048, 125 M parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from models._random import SEED, randomize, token_ids
from models._recipes import prune_and_pack

TOKENS = 128
VOCABULARY = 32000


def build() -> nn.Module:
    """LlamaForCausalLM without a cache (a prompt at once): input_ids -> logits f32[batch, tokens, 32000]."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    return randomize(LlamaForCausalLM(config))


def example_inputs(batch: int = 1, tokens: int = TOKENS) -> tuple[Tensor]:
    """(input_ids,), int64[batch, tokens]."""
    return (token_ids(batch, tokens, VOCABULARY),)


def calibration(count: int, tokens: int = TOKENS) -> Iterator[tuple[Tensor]]:
    """Uniform tokens: enough to exercise calibrated passes, meaningless for accuracy, as the weights are."""
    for i in range(count):
        yield (token_ids(1, tokens, VOCABULARY, SEED + 1 + i),)


def recipe(pattern: str = "4x1", sparsity: float = 0.7) -> dict[str, Any]:
    """Every linear of the decoder layers; the head, whose outputs are compared with each other, stays dense."""
    return prune_and_pack([r"re:model\.layers\..*"], pattern, sparsity)
