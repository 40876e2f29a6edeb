"""Videos of the small diffusion transformer, sampled with dense attention or with block maps that change with the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from models._attention_calls import AttentionCalls, spread
from models.video_dit_small import SHAPE, TEXT, Inputs, VideoDitSmall, noise_of, sample
from sparsecc.attention.base import BlockMap, Sample
from sparsecc.attention.dynamic import DynamicMap

Maps = Sequence[Sequence[BlockMap | DynamicMap]]  # for each group of steps, for each layer
Mask = Callable[[Tensor, Tensor], Tensor]  # of q and k, bool that broadcasts to [batch, heads, tokens, tokens]
_AT_ONCE = 12  # videos; each goes through the model with its caption and without
_FEATURE_TIME = 0.2


@dataclass(frozen=True)
class Sampler:
    """steps: of the sampler, in `groups` of equally many that share their maps."""

    model: VideoDitSmall
    steps: int
    groups: int

    @property
    def layers(self) -> int:
        return len(self.model.blocks)

    @property
    def device(self) -> torch.device:
        return self.model.places.device

    def group(self, step: int) -> int:
        return step * self.groups // self.steps

    def calibration(self, captions: Sequence[str], seeds: Sequence[int]) -> list[list[list[Sample]]]:
        """What enters each layer's attention on the way of a dense sampler: for each group of steps (of which one in the middle is
        looked at) and layer, samples of [2 · captions, heads, tokens, head_dim]."""
        states: list[Inputs] = []
        with torch.no_grad():
            sample(self.model, captions, noise_of(seeds, self.device), self.steps, states.append)
            steps = [[step for step in range(self.steps) if self.group(step) == group] for group in range(self.groups)]
            found = [self._inside(states[group[len(group) // 2]]) for group in steps]
        return [[[site] for site in sites] for sites in found]

    def videos(self, captions: Sequence[str], seeds: Sequence[int], maps: Maps | None = None, kept: list[Tensor] | None = None) -> Tensor:
        """f32[captions, *SHAPE], each from the noise of its seed; dense without maps. kept: gets the share of the blocks that are computed
        in each call whose blocks are chosen there."""
        parts = range(0, len(captions), _AT_ONCE)
        masks = None if maps is None else [[self._mask(one, kept) for one in sites] for sites in maps]
        with torch.no_grad():
            return torch.cat([self._part(captions[i : i + _AT_ONCE], seeds[i : i + _AT_ONCE], masks) for i in parts])

    def features(self, videos: Tensor) -> list[Tensor]:
        """What the dense model's layers make of videos under the same noise, without a caption: [videos, patches, width] after each
        second layer, each patch's of length 1."""
        found: list[Tensor] = []
        hooks = [block.register_forward_hook(lambda _, __, x: found.append(x[:, TEXT:])) for block in self.model.blocks[1::2]]
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).to(videos)
        text = torch.zeros(len(videos), TEXT, dtype=torch.int64, device=videos.device)
        with torch.no_grad():
            noised = torch.lerp(videos.clamp(-1, 1), noise.expand_as(videos), _FEATURE_TIME)
            self.model(noised, text, torch.full((len(videos),), _FEATURE_TIME, device=videos.device))
        for hook in hooks:
            hook.remove()
        return [torch.nn.functional.normalize(x, dim=-1) for x in found]

    def feature_distances(self, videos: Tensor, others: Tensor) -> list[float]:
        """Of pairs, by the formula of LPIPS (Zhang et al. 2018) without learned weights: squared distance of unit features, mean over
        patches and layers."""
        parts = [zip(*(self.features(part) for part in pair), strict=True) for pair in _pairs(videos, others)]
        return [float(d) for part in parts for d in torch.stack([(a - b).square().sum(-1).mean(-1) for a, b in part]).mean(0)]

    def _part(self, captions: Sequence[str], seeds: Sequence[int], masks: list[list[Mask]] | None) -> Tensor:
        noise = noise_of(seeds, self.device)
        if masks is None:
            return sample(self.model, captions, noise, self.steps)
        at = _Step()

        def attend(site: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return scaled_dot_product_attention(q, k, v, attn_mask=masks[self.group(at.step)][site](q, k))

        with AttentionCalls(self.layers, attend):
            return sample(self.model, captions, noise, self.steps, at.next)

    def _inside(self, inputs: Inputs) -> list[Sample]:
        """Of each layer."""
        found: list[Sample] = []

        def attend(site: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            found.append(Sample(q, k, v))
            return scaled_dot_product_attention(q, k, v)

        with AttentionCalls(self.layers, attend):
            self.model(*inputs)
        return found

    def _mask(self, one: BlockMap | DynamicMap, kept: list[Tensor] | None) -> Mask:
        if isinstance(one, BlockMap):
            mask = spread(one.keep.to(self.device), one.places().to(self.device), one.block)
            return lambda q, k: mask

        def chosen(q: Tensor, k: Tensor) -> Tensor:
            keep = one.select(q.float(), k.float(), q.shape[3] ** -0.5)
            if kept is not None:
                kept.append(keep.float().mean())
            return _tokens(keep, one.block, q.shape[2])

        return chosen


@dataclass
class _Step:
    """Which step the sampler is at."""

    step: int = field(default=-1)

    def next(self, _: Inputs) -> None:
        self.step += 1


def _tokens(keep: Tensor, block: int, tokens: int) -> Tensor:
    """bool[batch, heads, tokens, tokens] of the blocks that are kept, in the model's order."""
    return keep.repeat_interleave(block, 2)[:, :, :tokens].repeat_interleave(block, 3)[:, :, :, :tokens]


def _pairs(one: Tensor, other: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(one.split(_AT_ONCE), other.split(_AT_ONCE), strict=True))
