"""Weights for models whose shapes matter and whose values do not: drawn, seeded, and shaped like trained ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SEED = 2024


def randomize(module: nn.Module, seed: int = SEED) -> nn.Module:
    """Draw every parameter anew and return the module in eval mode, gradients off.

    Matrices get std 1/√in (LeCun et al. 1998, so that activations neither die nor explode over many layers), times a
    log-normal scale per row: trained layers have rows of unequal size, and a criterion that compares rows should meet
    that. Embeddings get 0.02, norm scales 1 ± 0.1, biases 0 ± 0.02.
    """
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(_draw(name, parameter, id(parameter) in embeddings, generator))
    return module.eval().requires_grad_(False)


def _draw(name: str, like: Tensor, is_embedding: bool, generator: torch.Generator) -> Tensor:
    noise = torch.randn(like.shape, generator=generator)
    if is_embedding:
        return 0.02 * noise
    if like.ndim == 1:
        return 1 + 0.1 * noise if name.endswith("weight") else 0.02 * noise
    rows = torch.randn(like.shape[0], generator=generator).mul(0.3).exp()
    return noise * rows.reshape(-1, *[1] * (like.ndim - 1)) / like[0].numel() ** 0.5


def token_ids(batch: int, tokens: int, vocabulary: int, seed: int = SEED) -> Tensor:
    """int64[batch, tokens], uniform over the vocabulary."""
    return torch.randint(vocabulary, (batch, tokens), generator=torch.Generator().manual_seed(seed))
