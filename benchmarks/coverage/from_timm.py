"""timm's models, as small as their families come."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.coverage.architectures import Architecture, image
from benchmarks.coverage.packages import importable

if TYPE_CHECKING:
    from torch import nn


def _make(name: str, options: dict[str, Any]) -> nn.Module:
    importable()
    import timm

    return timm.create_model(name, pretrained=False, num_classes=10, **options)


def _row(name: str, size: int, **options: Any) -> Architecture:
    return Architecture(f"timm/{name}", partial(_make, name, options), partial(image, size))


# They take pictures of any size.
_CONVOLUTIONAL = (
    "resnext26ts", "skresnet18", "seresnext26t_32x4d", "nf_regnet_b0", "mobilenetv3_small_050", "mobilenetv4_conv_small_035",
    "mobileone_s0", "lcnet_035", "ghostnet_050", "repvgg_a0", "rexnet_100", "efficientnet_lite0", "mixnet_s", "dla46x_c", "hrnet_w18_small",
    "ese_vovnet19b_slim_dw", "regnety_002", "fbnetc_100", "convnext_atto", "edgenext_xx_small", "poolformerv2_s12", "fastvit_t8",
    "mambaout_femto", "starnet_s1", "repvit_m0_9", "inception_next_atto",
)  # fmt: skip
# They are built for one size.
_SIZED = (
    ("vit_tiny_patch16_224", 32), ("resmlp_12_224", 64), ("gmlp_ti16_224", 64), ("cait_xxs24_224", 32), ("xcit_nano_12_p16_224", 64),
    ("pit_ti_224", 64), ("eva02_tiny_patch14_224", 56), ("visformer_tiny", 64), ("coat_tiny", 64),
)  # fmt: skip
_WHOLE = (
    "levit_128s", "mobilevit_xxs", "efficientformerv2_s0", "tiny_vit_5m_224", "efficientvit_b0", "convit_tiny", "swiftformer_xs",
    "lambda_resnet26t",
)  # fmt: skip
TABLE = (
    *(_row(name, 64) for name in _CONVOLUTIONAL),
    *(_row(name, size, img_size=size) for name, size in _SIZED),
    *(_row(name, 224) for name in _WHOLE),
)
