"""What a block map costs on calibration samples, head by head: the mass it loses, and the error of its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sparsecc.attention import mass as masses
from sparsecc.attention.base import Asked, BlockMap, Choice, Sample
from sparsecc.attention.mass import Mass
from sparsecc.top import keep_top


def judge(found: BlockMap, asked: Asked) -> Choice:
    """Any map, with its costs where there are samples, and heads above `max_error` dense."""
    if not asked.samples:
        return Choice(found)
    lost, error = [], []
    for head, (keep, places) in enumerate(zip(found.keep, found.places(), strict=True)):
        inputs = inputs_of(asked, head)
        lost.append(lost_mass(average_mass(inputs, places, asked.scale, asked.block, asked.causal).mass, keep))
        error.append(relative_error(inputs, places, asked.scale, asked.block, keep, asked.causal))
    return within(found, lost, error, asked.max_error)


def within(found: BlockMap, lost: Sequence[float], error: Sequence[float], max_error: float | None) -> Choice:
    """The map with heads whose error is above `max_error`, or not a number, dense and in the model's order."""
    return held(Choice(found, torch.tensor(lost), torch.tensor(error)), max_error)


def held(choice: Choice, max_error: float | None) -> Choice:
    """The choice with heads whose error is above `max_error`, or not a number, dense and in the model's order. One without costs stays."""
    if max_error is None or choice.error is None:
        return choice
    wrong = torch.tensor([not one <= max_error for one in choice.error.tolist()])
    return replace(choice, map=dense_where(choice.map, wrong))


def dense_where(found: BlockMap, heads: Tensor) -> BlockMap:
    """The map with these heads dense and in the model's order. heads: bool[heads]."""
    keep = torch.where(heads[:, None, None], found.full, found.keep)
    orders = found.orders
    if orders is not None:
        first = torch.zeros_like(orders) if orders.dim() == 1 else torch.arange(orders.shape[1], dtype=orders.dtype).expand_as(orders)
        orders = torch.where(heads if orders.dim() == 1 else heads[:, None], first, orders)
    return replace(found, orders=orders, keep=keep)


def inputs_of(asked: Asked, head: int) -> list[Sample]:
    """What enters one head of queries, [tokens, head_dim] each, of all samples and items of their batches."""
    return [_head(sample, item, head) for sample in asked.samples for item in range(len(sample.q))]


def average_mass(inputs: Sequence[Sample], places: Tensor, scale: float, block: int, causal: bool = False) -> Mass:
    """Over samples of one head, each [tokens, head_dim], in the order of `places`."""
    found = [masses.measure(q[places], k[places], scale, block, causal) for q, k, _ in inputs]
    return Mass(torch.stack([one.mass for one in found]).mean(0), torch.stack([one.evenness for one in found]).mean(0))


def heaviest(mass: Tensor, needed: Tensor, density: float) -> Tensor:
    """bool[query_blocks, key_blocks]: `needed`, and the heaviest others until that share of all blocks is kept."""
    count = max(round(density * mass.numel()), int(needed.count_nonzero()))
    score = torch.where(needed, torch.inf, mass).flatten()
    return keep_top(score, score.numel() - count).reshape(mass.shape)


def lost_mass(mass: Tensor, keep: Tensor) -> float:
    """Share of the mass outside the kept blocks."""
    return float(mass[~keep].double().sum() / mass.double().sum())


def relative_error(inputs: Sequence[Sample], places: Tensor, scale: float, block: int, keep: Tensor, causal: bool = False) -> float:
    """‖o − o'‖ / ‖o‖ of one head over its samples."""
    return relative_errors(inputs, places, scale, block, [keep], causal)[0]


def relative_errors(
    inputs: Sequence[Sample], places: Tensor, scale: float, block: int, keeps: Sequence[Tensor], causal: bool = False
) -> list[float]:
    """`relative_error` with each of these blocks kept, at the price of one dense attention and the sparse ones."""
    parts = [masses.output_errors(q[places], k[places], v[places], scale, block, keeps, causal) for q, k, v in inputs]
    whole = sum(power for _, power in parts)
    return [(sum(lost) / whole) ** 0.5 if whole else 0.0 for lost in zip(*(lost for lost, _ in parts), strict=True)]


def powers(asked: Asked) -> Tensor:
    """float64[heads]: ‖o‖² of each head's dense output over the samples (of the sampled queries), by which errors of heads add up."""
    found = []
    for head in range(asked.heads):
        parts = [masses.output_errors(*one, asked.scale, asked.block, [], asked.causal) for one in inputs_of(asked, head)]
        found.append(sum(power for _, power in parts))
    return torch.tensor(found, dtype=torch.float64)


def _head(sample: Sample, item: int, head: int) -> Sample:
    heads = sample.q.shape[1]
    return Sample(*(tensor[item, head * tensor.shape[1] // heads].detach().float() for tensor in sample))
