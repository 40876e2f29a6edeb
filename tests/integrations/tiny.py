"""The transformers of diffusers, small and random, with a grid of their tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn

from sparsecc.attention.base import Grid

TEXT = 5


@dataclass(frozen=True)
class Tiny:
    """sites: the attention over image and text, in execution order.  inputs: of one call, for a batch and a timestep."""

    make: Callable[[], nn.Module]
    grid: Grid
    sites: tuple[str, ...]
    inputs: Callable[[int, float], dict[str, Any]]

    def model(self) -> nn.Module:
        return _made(self.make)

    def __call__(self, batch: int = 2, timestep: float = 10) -> Tensor:
        model = self.model()
        torch.manual_seed(1)
        with torch.no_grad():
            return model(**self.inputs(batch, timestep)).sample


@cache
def _made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    made = make().eval()
    for name, weight in made.named_parameters():  # attention that looks at something
        if ".to_q." in name or ".to_k." in name:
            weight.data.mul_(4)
    return made


def _steps(batch: int, timestep: float) -> Tensor:
    return torch.full((batch,), timestep)


def _text(batch: int) -> Tensor:
    return torch.randn(batch, TEXT, 16)


def _cogvideox() -> nn.Module:
    return CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=16, num_layers=2,
        sample_width=16, sample_height=8, sample_frames=9, max_text_seq_length=TEXT, use_rotary_positional_embeddings=True,
    )  # fmt: skip


def _cogvideox_inputs(batch: int, timestep: float) -> dict[str, Any]:
    angles = torch.randn(96, 16)
    return {
        "hidden_states": torch.randn(batch, 3, 4, 8, 16), "encoder_hidden_states": _text(batch), "timestep": _steps(batch, timestep),
        "image_rotary_emb": (angles.cos(), angles.sin()),
    }  # fmt: skip


def _wan() -> nn.Module:
    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16, ffn_dim=16, num_layers=2,
        rope_max_seq_len=32,
    )  # fmt: skip


def _wan_inputs(batch: int, timestep: float) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, 4, 3, 8, 16), "timestep": _steps(batch, timestep), "encoder_hidden_states": _text(batch)
    }  # fmt: skip


def _flux() -> nn.Module:
    return FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip


def _flux_inputs(batch: int, timestep: float) -> dict[str, Any]:
    rows = torch.cartesian_prod(torch.arange(1.0), torch.arange(6.0), torch.arange(8.0))
    return {
        "hidden_states": torch.randn(batch, 48, 4), "encoder_hidden_states": _text(batch), "pooled_projections": torch.randn(batch, 16),
        "timestep": _steps(batch, timestep / 1000), "img_ids": rows, "txt_ids": torch.zeros(TEXT, 3),
    }  # fmt: skip


def _hunyuan() -> nn.Module:
    return HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=1, text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
    )  # fmt: skip


def _hunyuan_inputs(batch: int, timestep: float) -> dict[str, Any]:
    """The second prompt is shorter than the first."""
    mask = torch.ones(batch, TEXT)
    mask[1:, 3:] = 0
    return {
        "hidden_states": torch.randn(batch, 4, 3, 4, 8), "timestep": _steps(batch, timestep), "encoder_hidden_states": _text(batch),
        "encoder_attention_mask": mask, "pooled_projections": torch.randn(batch, 8), "guidance": torch.full((batch,), 6.0),
    }  # fmt: skip


_BOTH = ("transformer_blocks.0.attn", "single_transformer_blocks.0.attn")
MODELS = {
    "CogVideoX": Tiny(
        _cogvideox, Grid(3, 4, 8, TEXT), ("transformer_blocks.0.attn1", "transformer_blocks.1.attn1"), _cogvideox_inputs
    ),
    "Wan": Tiny(_wan, Grid(3, 4, 8), ("blocks.0.attn1", "blocks.1.attn1"), _wan_inputs),
    "Flux": Tiny(_flux, Grid(1, 6, 8, TEXT), _BOTH, _flux_inputs),
    "HunyuanVideo": Tiny(_hunyuan, Grid(3, 4, 8, TEXT, text_first=False), _BOTH, _hunyuan_inputs),
}  # fmt: skip
