"""diffusers' networks: U-Nets, autoencoders and transformers of images, video and sound, a block or two each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.coverage.architectures import Architecture
from benchmarks.coverage.packages import importable

if TYPE_CHECKING:
    from torch import nn


def _make(name: str, settings: dict[str, Any]) -> nn.Module:
    importable()
    import diffusers

    return getattr(diffusers, name)(**settings)


def _row(name: str, settings: dict[str, Any], inputs: Callable[[], dict[str, Any]]) -> Architecture:
    return Architecture(f"diffusers/{name}", partial(_make, name, settings), inputs)


def _step(value: float = 10) -> torch.Tensor:
    return torch.tensor([value])


def _rows(*shape: int) -> torch.Tensor:
    return torch.randn(1, *shape)


_NETWORK = {"in_channels": 4, "layers_per_block": 1, "block_out_channels": (16, 32), "norm_num_groups": 8, "attention_head_dim": 8}
_UNET = {**_NETWORK, "sample_size": 16, "out_channels": 4}
_CROSS = {"cross_attention_dim": 16}
_CODER = {
    "in_channels": 3, "out_channels": 3, "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (16, 32), "latent_channels": 4, "norm_num_groups": 8,
}  # fmt: skip
_HEADS = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4}
_TRANSFORMER = {**_HEADS, "num_layers": 2, "sample_size": 8, "patch_size": 2}
_JOINT = {**_HEADS, "joint_attention_dim": 16}


def _picture() -> dict[str, Any]:
    return {"sample": _rows(3, 32, 32)}


def _noisy() -> dict[str, Any]:
    return {"sample": _rows(4, 16, 16), "timestep": _step()}


def _text() -> dict[str, Any]:
    return {"encoder_hidden_states": _rows(7, 16)}


def _latent(step: float = 10) -> dict[str, Any]:
    return {"hidden_states": _rows(4, 8, 8), "timestep": _step(step)}


TABLE = (
    _row(
        "UNet2DModel",
        {**_UNET, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")},
        _noisy,
    ),
    _row(
        "UNet2DConditionModel",
        {**_UNET, **_CROSS, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D",
        "UpBlock2D")},
        lambda: _noisy() | _text(),
    ),
    _row(
        "UNet3DConditionModel",
        {**_UNET, **_CROSS, "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"), "up_block_types": ("UpBlock3D",
        "CrossAttnUpBlock3D")},
        lambda: {"sample": _rows(4, 2, 16, 16), "timestep": _step()} | _text(),
    ),
    _row(
        "ControlNetModel",
        {**_NETWORK, **_CROSS, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "conditioning_embedding_out_channels": (8, 16)},
        lambda: _noisy() | _text() | {"controlnet_cond": _rows(3, 32, 32)},
    ),
    _row("AutoencoderKL", _CODER, _picture),
    _row("VQModel", {**_CODER, "num_vq_embeddings": 32}, _picture),
    _row(
        "AutoencoderTiny",
        {
            "encoder_block_out_channels": (16, 16), "decoder_block_out_channels": (16, 16), "num_encoder_blocks": (1, 1),
            "num_decoder_blocks": (1, 1),
        },
        _picture,
    ),
    _row(
        "AutoencoderDC",
        {
            "in_channels": 3, "latent_channels": 4, "attention_head_dim": 8, "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "decoder_block_types": ("ResBlock", "EfficientViTBlock"), "encoder_block_out_channels": (16, 32),
            "decoder_block_out_channels": (16, 32),
            "encoder_qkv_multiscales": ((), (5,)), "decoder_qkv_multiscales": ((), (5,)), "encoder_layers_per_block": (1, 1),
            "decoder_layers_per_block": (1, 1), "downsample_block_type": "conv", "upsample_block_type": "interpolate",
            "decoder_norm_types": "rms_norm", "decoder_act_fns": "silu",
        },
        _picture,
    ),
    _row(
        "AutoencoderKLTemporalDecoder",
        {
            "in_channels": 3, "out_channels": 3, "down_block_types": ("DownEncoderBlock2D",) * 2, "block_out_channels": (32, 32),
            "latent_channels": 4, "layers_per_block": 1,
        },
        lambda: {"sample": torch.randn(2, 3, 16, 16), "num_frames": 2},
    ),
    _row(
        "AutoencoderKLWan",
        {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True, True]},
        lambda: {"sample": _rows(3, 5, 16, 16)},
    ),
    _row(
        "AutoencoderOobleck",
        {
            "encoder_hidden_size": 8, "downsampling_ratios": [2, 4], "channel_multiples": [1, 2], "decoder_channels": 8,
            "decoder_input_channels": 4, "audio_channels": 2,
        },
        lambda: {"sample": _rows(2, 64)},
    ),
    _row("T2IAdapter", {"in_channels": 3, "channels": [16, 32], "num_res_blocks": 1, "downscale_factor": 2}, lambda: {"x": _rows(3, 32,
    32)}),
    _row("DiTTransformer2DModel", {**_TRANSFORMER, "num_embeds_ada_norm": 50}, lambda: _latent() | {"class_labels": torch.tensor([3])}),
    _row(
        "PixArtTransformer2DModel",
        {**_TRANSFORMER, "out_channels": 8, "cross_attention_dim": 32, "caption_channels": 16, "use_additional_conditions": False},
        lambda: _latent() | _text() | {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}},
    ),
    _row(
        "SD3Transformer2DModel",
        {
            **_TRANSFORMER, "joint_attention_dim": 16, "caption_projection_dim": 32, "pooled_projection_dim": 16, "out_channels": 4,
            "pos_embed_max_size": 16,
        },
        lambda: _latent() | _text() | {"pooled_projections": _rows(16)},
    ),
    _row(
        "FluxTransformer2DModel",
        {**_JOINT, "patch_size": 1, "num_layers": 1, "num_single_layers": 1, "pooled_projection_dim": 16, "axes_dims_rope": (4, 6, 6)},
        lambda: _text() | {
            "hidden_states": _rows(16, 4), "pooled_projections": _rows(16), "timestep": _step(0.5),
            "img_ids": torch.randint(0, 4, (16, 3)).float(), "txt_ids": torch.zeros(7, 3),
        },
    ),
    _row(
        "AuraFlowTransformer2DModel",
        {
            **_JOINT, "sample_size": 8, "patch_size": 2, "num_mmdit_layers": 1, "num_single_dit_layers": 1, "caption_projection_dim": 32,
            "out_channels": 4, "pos_embed_max_size": 64,
        },
        lambda: _latent(0.5) | _text(),
    ),
    _row(
        "SanaTransformer2DModel",
        {
            **_TRANSFORMER, "patch_size": 1, "out_channels": 4, "num_cross_attention_heads": 2, "cross_attention_head_dim": 16,
            "cross_attention_dim": 32, "caption_channels": 16, "mlp_ratio": 2,
        },
        lambda: _latent() | _text(),
    ),
    _row(
        "Lumina2Transformer2DModel",
        {
            "sample_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 32, "num_layers": 2, "num_refiner_layers": 1,
            "num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 16, "axes_dim_rope": (4, 6, 6), "axes_lens": (32, 16, 16),
            "cap_feat_dim": 16,
        },
        lambda: _latent(0.5) | _text() | {"encoder_attention_mask": torch.ones(1, 7, dtype=torch.bool)},
    ),
    _row(
        "PriorTransformer",
        {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "embedding_dim": 8, "num_embeddings": 7,
        "additional_embeddings": 4},
        lambda: {"hidden_states": _rows(8), "timestep": _step(), "proj_embedding": _rows(8), "encoder_hidden_states": _rows(7, 8)},
    ),
    _row(
        "CogVideoXTransformer3DModel",
        {
            **_HEADS, "out_channels": 4, "time_embed_dim": 8, "text_embed_dim": 16, "num_layers": 2, "sample_width": 8, "sample_height": 8,
            "sample_frames": 5, "patch_size": 2, "temporal_compression_ratio": 4, "max_text_seq_length": 7,
        },
        lambda: {"hidden_states": _rows(2, 4, 8, 8), "timestep": _step()} | _text(),
    ),
    _row(
        "LTXVideoTransformer3DModel",
        {**_HEADS, "out_channels": 4, "cross_attention_dim": 32, "num_layers": 2, "caption_channels": 16},
        lambda: _text() | {
            "hidden_states": _rows(32, 4), "timestep": _step(), "encoder_attention_mask": torch.ones(1, 7), "num_frames": 2, "height": 4,
            "width": 4,
        },
    ),
    _row(
        "WanTransformer3DModel",
        {
            "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
            "text_dim": 16,
            "freq_dim": 32, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32,
        },
        lambda: {"hidden_states": _rows(4, 2, 8, 8), "timestep": _step()} | _text(),
    ),
    _row(
        "UVit2DModel",
        {
            "hidden_size": 32, "cond_embed_dim": 16, "micro_cond_encode_dim": 2, "micro_cond_embed_dim": 10, "encoder_hidden_size": 16,
            "vocab_size": 32, "codebook_size": 32, "in_channels": 16, "block_out_channels": 16, "num_res_blocks": 1, "block_num_heads": 2,
            "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        },
        lambda: _text() | {"input_ids": torch.randint(0, 30, (1, 8, 8)), "pooled_text_emb": _rows(16), "micro_conds": _rows(5)},
    ),
)  # fmt: skip
