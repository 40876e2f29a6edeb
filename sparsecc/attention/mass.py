"""Attention mass by blocks, one head at a time and one block of queries at a time: the whole map is never held.

Long sequences are sampled: every n-th query of the reordered sequence is looked at, n from `stride`. All keys are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

EXACT_TOKENS = 4096  # up to twice as many every query is looked at; beyond, about as many


def stride(tokens: int, block: int) -> int:
    """Every n-th query is looked at, at least four of each block."""
    return max(1, min(tokens // EXACT_TOKENS, block // 4))


@dataclass(frozen=True)
class Mass:
    """mass: float[query_blocks, key_blocks], the attention that the queries of a block give to the keys of a block, in queries: all sum
    to the number of tokens.  evenness: of each block, mean over largest probability, 1 where all are equal."""

    mass: Tensor
    evenness: Tensor


def measure(q: Tensor, k: Tensor, scale: float, block: int, causal: bool = False) -> Mass:
    """q, k: [tokens, head_dim] of one head, in the order to be measured."""
    tokens = len(q)
    sizes = torch.tensor([len(part) for part in torch.arange(tokens).split(block)], dtype=torch.float32)
    masses, evenness = [], []
    for scores in _scores(q, k, scale, block, causal):
        p = scores.softmax(1)
        mean, largest = _columns(p.mean(0), block).sum(1), _columns(p.amax(0), block).amax(1)
        masses.append(mean)
        evenness.append(torch.where(largest > 0, mean / sizes / largest, 1.0))
    return Mass(torch.stack(masses) * sizes[:, None], torch.stack(evenness))


def output_errors(
    q: Tensor, k: Tensor, v: Tensor, scale: float, block: int, keeps: Sequence[Tensor], causal: bool = False
) -> tuple[list[float], float]:
    """(‖o − o'‖² for each of keeps, ‖o‖²) of one head's output: dense, and with the blocks of a bool[query_blocks, key_blocks] alone."""
    lost, whole = [0.0] * len(keeps), 0.0
    for row, scores in enumerate(_scores(q, k, scale, block, causal)):
        dense = scores.softmax(1) @ v
        whole += float(dense.square().sum())
        for i, keep in enumerate(keeps):
            seen = keep[row].repeat_interleave(block)[: len(k)]
            lost[i] += float((dense - scores[:, seen].softmax(1) @ v[seen]).square().sum())
    return lost, whole


def _scores(q: Tensor, k: Tensor, scale: float, block: int, causal: bool) -> Iterator[Tensor]:
    """scale · q kᵀ for the sampled queries of each block: float[queries, tokens], −∞ for later keys where it is causal."""
    every, keys = stride(len(q), block), k.t()
    at = torch.arange(len(q), device=q.device)
    for part, queries in zip(q.split(block), at.split(block), strict=True):
        scores = scale * part[::every] @ keys
        yield scores.masked_fill(at > queries[::every, None], -torch.inf) if causal else scores


def _columns(row: Tensor, block: int) -> Tensor:
    """float[tokens] → [key_blocks, block], padded with zeros."""
    return functional.pad(row, (0, -len(row) % block)).reshape(-1, block)
