"""torchvision's models. Its detectors are left out: the library of their operators does not load beside a torch for the CPU alone."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.coverage.architectures import Architecture, image
from benchmarks.coverage.packages import importable

if TYPE_CHECKING:
    from torch import nn


def _make(place: str, function: str, options: dict[str, Any]) -> nn.Module:
    importable()
    made = getattr(import_module(f"torchvision.models{place}"), function)
    return made(**options)


def _swin(version: int) -> nn.Module:
    importable()
    swin = import_module("torchvision.models.swin_transformer")
    parts = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2} if version == 2 else {}
    sizes = {"patch_size": [4, 4], "embed_dim": 32, "depths": [1, 1], "num_heads": [2, 4], "window_size": [4, 4]}
    return swin.SwinTransformer(**sizes, num_classes=10, **parts)


def _row(function: str, size: int = 64, place: str = "", name: str | None = None, **options: Any) -> Architecture:
    make = partial(_make, place, function, {"num_classes": 10, **options})
    return Architecture(f"torchvision/{name or function}", make, partial(image, size))


def _video(function: str) -> Architecture:
    make = partial(_make, ".video", function, {"num_classes": 10})
    return Architecture(f"torchvision/{function}", make, lambda: (torch.randn(1, 3, 4, 32, 32),))


_VIT = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128}
_NO_EXTRAS = {"aux_logits": False, "init_weights": False}
_NO_WEIGHTS = {"weights_backbone": None}
TABLE = (
    *map(_row, ("resnet18", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0", "densenet121")),
    *map(_row, ("mnasnet0_5", "regnet_y_400mf")),
    _row("googlenet", **_NO_EXTRAS),
    _row("inception_v3", 96, **_NO_EXTRAS),
    _row("VisionTransformer", 32, ".vision_transformer", "vit", **_VIT),
    *(Architecture(f"torchvision/swin_v{version}", partial(_swin, version), partial(image, 64)) for version in (1, 2)),
    _row("deeplabv3_mobilenet_v3_large", 64, ".segmentation", **_NO_WEIGHTS),
    _row("lraspp_mobilenet_v3_large", 64, ".segmentation", **_NO_WEIGHTS),
    _video("mc3_18"),
    _video("r2plus1d_18"),
    Architecture(
        "torchvision/raft_small",
        partial(_make, ".optical_flow", "raft_small", {}),
        lambda: (*image(128), *image(128), 2),
    ),
)
