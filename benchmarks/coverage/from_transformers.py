"""transformers' models: encoders, decoders as they come (with caches), encoder-decoders, pictures, sound, series; two layers each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.coverage.architectures import Architecture

if TYPE_CHECKING:
    from torch import nn

Settings = dict[str, Any]
_TOKENS, _SPOKEN = 12, 6  # of an input, and of a decoder beside an encoder


def _make(kind: str, head: str, settings: Settings) -> nn.Module:
    import transformers

    transformers.logging.set_verbosity_error()
    config = transformers.AutoConfig.for_model(kind, **settings)
    model = getattr(transformers, head)
    return model.from_config(config) if head.startswith("Auto") else model(config)


def _row(kind: str, settings: Settings, inputs: Callable[[], Settings], head: str = "AutoModel") -> Architecture:
    return Architecture(f"transformers/{kind}", partial(_make, kind, head, settings), inputs)


def _ids(count: int = _TOKENS) -> torch.Tensor:
    return torch.randint(3, 100, (1, count))  # past the marks for start, end and padding


def _sentence() -> Settings:
    return {"input_ids": _ids()}


def _masked_sentence() -> Settings:
    return {"input_ids": _ids(), "attention_mask": torch.ones(1, _TOKENS, dtype=torch.long)}


def _translation() -> Settings:
    return {"input_ids": _ids(), "decoder_input_ids": _ids(_SPOKEN)}


def _placed_sentence() -> Settings:
    return {"input_ids": _ids(), "bbox": torch.randint(0, 100, (1, _TOKENS, 4)).sort(-1).values}


def _picture(size: int) -> Settings:
    return {"pixel_values": torch.randn(1, 3, size, size)}


def _sound(*shape: int) -> Settings:
    return {"input_values": torch.randn(1, *shape)}


def _series() -> Settings:
    return {"past_values": torch.randn(1, 32, 2)}


_TEXT: Settings = {
    "vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 64,
}  # fmt: skip
# Names that only some of them know; the others carry them along.
_DECODER = {
    **_TEXT, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, "num_local_experts": 4, "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "sliding_window": 8, "rotary_dim": 8,
}  # fmt: skip
_MAMBA = {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}
_SEQUENCES = {
    "vocab_size": 128, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 64, "pad_token_id": 1, "decoder_start_token_id": 2,
}  # fmt: skip
_SPEECH = {**_SEQUENCES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "max_target_positions": 32}
_VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
_WINDOWS = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
_STAGES = {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}
_PYRAMID = {"image_size": 64, "hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4]}
_RESNET = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]}
_WAVES = {
    **_TEXT, "conv_dim": (32, 32, 32), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 2), "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "feat_extract_norm": "group", "squeeze_factor": 2,
}  # fmt: skip
_NECK = {"neck_hidden_sizes": [8, 16, 16, 32], "fusion_hidden_size": 16}
_FORECAST = {"num_input_channels": 2, "context_length": 32, "prediction_length": 8, "patch_length": 8, "patch_stride": 8, "d_model": 16}
_CAPTION = {**_TEXT, "hidden_size": 32, "intermediate_size": 64, "eos_token_id": 2}
_DISENTANGLED = {**_TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
_DETR = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "num_queries": 5, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
    "backbone_config": {"model_type": "resnet", **_RESNET, "out_features": ["stage2"]},
}  # fmt: skip
_DINO_BACKBONE = {
    "model_type": "dinov2", **_VISION, "num_hidden_layers": 4, "image_size": 56, "patch_size": 14, "out_indices": [1, 2, 3, 4],
    "reshape_hidden_states": False, "apply_layernorm": True,
}  # fmt: skip
_HIFIGAN = {
    "model_in_dim": 16, "upsample_initial_channel": 32, "upsample_rates": [4, 2], "upsample_kernel_sizes": [8, 4],
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
}  # fmt: skip
_ENCODERS = ("bert", "roberta", "xlm-roberta", "electra", "distilbert", "mpnet", "camembert", "roformer", "nystromformer")
_CAUSAL = (
    "gpt2", "gpt_neox", "opt", "bloom", "gptj", "codegen", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2",
    "gemma3_text", "phi", "phi3",
    "stablelm", "olmo2", "cohere", "granite", "smollm3", "starcoder2", "mixtral", "qwen2_moe", "gpt_oss", "nemotron", "glm4",
)  # fmt: skip
_CAUSAL_LM = "AutoModelForCausalLM"

TABLE = (
    # text
    *(_row(kind, _TEXT, _masked_sentence) for kind in _ENCODERS),
    _row("albert", {**_TEXT, "embedding_size": 32}, _masked_sentence),
    _row("squeezebert", {**_TEXT, "embedding_size": 64}, _masked_sentence),
    _row("deberta", {**_DISENTANGLED, "max_relative_positions": 16}, _masked_sentence),
    _row("deberta-v2", {**_DISENTANGLED, "position_buckets": 8}, _masked_sentence),
    _row("convbert", {**_TEXT, "embedding_size": 64}, _masked_sentence),
    _row("mobilebert", {**_TEXT, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32}, _masked_sentence),
    _row("modernbert", {**_TEXT, "pad_token_id": 0, "global_attn_every_n_layers": 2, "local_attention": 8}, _masked_sentence),
    _row("fnet", {**_TEXT, "pad_token_id": 0}, _sentence),
    _row("longformer", {**_TEXT, "attention_window": 8}, _masked_sentence),
    _row("esm", {**_TEXT, "pad_token_id": 1, "mask_token_id": 4, "position_embedding_type": "rotary", "token_dropout": False},
    _masked_sentence),
    _row("layoutlm", _TEXT, _placed_sentence),
    # decoders
    *(_row(kind, _DECODER, _masked_sentence, _CAUSAL_LM) for kind in _CAUSAL),
    _row("falcon", _TEXT, _masked_sentence, _CAUSAL_LM),
    _row("mpt", {"vocab_size": 128, "d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}, _masked_sentence, _CAUSAL_LM),
    _row(
        "deepseek_v3",
        {
            **_TEXT, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
            "kv_lora_rank": 16,
            "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "first_k_dense_replace": 1,
        },
        _masked_sentence,
        _CAUSAL_LM,
    ),
    _row("mamba", _MAMBA, _sentence, _CAUSAL_LM),
    _row("mamba2", {**_MAMBA, "num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 8}, _sentence, _CAUSAL_LM),
    # encoders with decoders
    _row("t5", {"vocab_size": 128, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}, _translation),
    *(_row(kind, _SEQUENCES, _translation) for kind in ("bart", "mbart", "marian", "m2m_100", "blenderbot")),
    _row(
        "whisper",
        {**_SPEECH, "num_mel_bins": 16, "max_source_positions": 32},
        lambda: {"input_features": torch.randn(1, 16, 64), "decoder_input_ids": _ids(_SPOKEN)},
    ),
    _row(
        "speech_to_text",
        {**_SPEECH, "max_source_positions": 64, "conv_channels": 32, "input_feat_per_channel": 16},
        lambda: {"input_features": torch.randn(1, 40, 16), "decoder_input_ids": _ids(_SPOKEN)},
    ),
    # pictures
    *(_row(kind, _VISION, partial(_picture, 32)) for kind in ("vit", "deit", "dinov2", "siglip_vision_model", "clip_vision_model",
    "dinov3_vit")),
    _row("yolos", {**_VISION, "image_size": (32, 32), "num_detection_tokens": 5}, partial(_picture, 32)),
    _row("beit", {**_VISION, "use_relative_position_bias": True}, partial(_picture, 32)),
    _row("data2vec-vision", {**_VISION, "use_relative_position_bias": True}, partial(_picture, 32)),
    *(_row(kind, _WINDOWS, partial(_picture, 32)) for kind in ("swin", "swinv2")),
    *(_row(kind, _STAGES, partial(_picture, 32)) for kind in ("convnext", "convnextv2")),
    _row("resnet", _RESNET, partial(_picture, 32)),
    _row("regnet", {**_RESNET, "groups_width": 8}, partial(_picture, 32)),
    _row("mobilenet_v2", {"image_size": 32}, partial(_picture, 32)),
    _row(
        "segformer",
        {"depths": [1] * 4, "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 32},
        partial(_picture, 64),
        "AutoModelForSemanticSegmentation",
    ),
    _row(
        "dpt",
        {**_VISION, **_NECK, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "is_hybrid": False},
        partial(_picture, 32),
        "AutoModelForDepthEstimation",
    ),
    _row(
        "depth_anything",
        {**_NECK, "backbone_config": _DINO_BACKBONE, "reassemble_hidden_size": 32, "head_hidden_size": 8},
        partial(_picture, 56),
        "AutoModelForDepthEstimation",
    ),
    _row("detr", _DETR, partial(_picture, 64), "AutoModelForObjectDetection"),
    _row("poolformer", {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}, partial(_picture, 32)),
    _row(
        "levit",
        {"image_size": 64, "hidden_sizes": [16, 32, 48], "num_attention_heads": [1, 2, 3], "depths": [1, 1, 1], "key_dim": [8, 8, 8]},
        partial(_picture, 64),
    ),
    _row("mobilevitv2", {"image_size": 64, "width_multiplier": 0.5}, partial(_picture, 64)),
    *(_row(kind, _PYRAMID, partial(_picture, 64)) for kind in ("pvt", "pvt_v2")),
    _row(
        "focalnet",
        {
            "image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "hidden_sizes": [16, 32], "focal_levels": [2, 2],
            "focal_windows": [3, 3],
        },
        partial(_picture, 32),
    ),
    _row("hiera", {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}, partial(_picture, 64)),
    _row(
        "swin2sr",
        {"image_size": 16, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        partial(_picture, 16),
        "AutoModelForImageToImage",
    ),
    # pictures with text
    _row("clip", {"text_config": _CAPTION, "vision_config": _VISION, "projection_dim": 16}, lambda: _sentence() | _picture(32)),
    _row("siglip", {"text_config": _CAPTION, "vision_config": _VISION}, lambda: _sentence() | _picture(32)),
    _row(
        "blip",
        {
            "text_config": {**_CAPTION, "encoder_hidden_size": 32, "projection_dim": 16}, "vision_config": _VISION,
            "projection_dim": 16,
        },
        lambda: _sentence() | _picture(32),
    ),
    _row(
        "layoutlmv3",
        {**_TEXT, "input_size": 32, "patch_size": 8, "coordinate_size": 8, "shape_size": 16, "max_2d_position_embeddings": 128},
        lambda: _placed_sentence() | _picture(32),
    ),
    # sound
    *(_row(kind, _WAVES, partial(_sound, 4000)) for kind in ("wav2vec2", "hubert", "wavlm", "sew", "data2vec-audio")),
    _row(
        "audio-spectrogram-transformer",
        {**_VISION, "max_length": 32, "num_mel_bins": 16, "frequency_stride": 8, "time_stride": 8},
        partial(_sound, 32, 16),
    ),
    _row(
        "encodec",
        {
            "hidden_size": 32, "num_filters": 4, "num_lstm_layers": 1, "codebook_size": 32, "codebook_dim": 32,
            "upsampling_ratios": [4, 2],
        },
        partial(_sound, 1, 640),
    ),
    _row(
        "dac",
        {
            "encoder_hidden_size": 8, "downsampling_ratios": [2, 4], "decoder_hidden_size": 32, "n_codebooks": 2, "codebook_size": 32,
            "codebook_dim": 4, "hidden_size": 32,
        },
        partial(_sound, 1, 640),
    ),
    Architecture(
        "transformers/speecht5_hifigan",
        partial(_make, "speecht5_hifigan", "SpeechT5HifiGan", _HIFIGAN),
        lambda: {"spectrogram": torch.randn(20, 16)},
    ),
    # series, actions, any arrays
    _row("patchtst", {**_FORECAST, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32}, _series, "PatchTSTForPrediction"),
    _row("patchtsmixer", {**_FORECAST, "num_layers": 2}, _series, "PatchTSMixerForPrediction"),
    _row(
        "decision_transformer",
        {"hidden_size": 32, "n_layer": 2, "n_head": 2, "state_dim": 5, "act_dim": 3},
        lambda: {
            "states": torch.randn(1, 6, 5), "actions": torch.randn(1, 6, 3), "returns_to_go": torch.randn(1, 6, 1),
            "timesteps": torch.arange(6)[None], "attention_mask": torch.ones(1, 6),
        },
    ),
    _row(
        "perceiver",
        {
            "num_latents": 8, "d_latents": 32, "d_model": 16, "num_blocks": 1, "num_self_attends_per_block": 2,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 4,
        },
        lambda: {"inputs": torch.randn(1, 20, 16)},
    ),
)  # fmt: skip
