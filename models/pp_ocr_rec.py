"""PP-OCRv4's text recognizer with its real weights (2.7 M parameters, ONNX opset 12): CNN, two attention blocks, 6625 characters.

The file lies in the PyPI package rapidocr-onnxruntime; Pillow and matplotlib's fonts draw the calibration text.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from models._carrier import carried
from models._images import random_style, text_line
from models._recipes import prune_and_pack
from models._sentences import sentences

HEIGHT = 48
WIDTH = 320


def build() -> Path:
    """x f32[batch, 3, 48, width] -> f32[batch, width/8, 6625], probabilities per position. `decode` reads them."""
    return carried("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", "rapidocr-onnxruntime==1.4.4")


def example_inputs(batch: int = 1, width: int = WIDTH) -> dict[str, np.ndarray]:
    return {"x": np.concatenate([preprocess(text_line(text, HEIGHT), width) for text in texts(batch)])}


def calibration(count: int, width: int = WIDTH) -> Iterator[dict[str, np.ndarray]]:
    """Short lines of text in several fonts, contrasts and noises."""
    for i, text in enumerate(texts(count)):
        yield {"x": preprocess(text_line(text, HEIGHT, random_style(np.random.default_rng(i)), seed=i), width)}


def texts(count: int, skip: int = 0) -> list[str]:
    """Lines short enough for the default width: the first words of sentences. `skip` as in `sentences`."""
    return [_first_words(sentence, characters=14) for sentence in sentences(count, skip)]


def recipe(pattern: str = "unstructured", sparsity: float = 0.7) -> dict[str, Any]:
    """The linear layers, 38 % of the weights. Measured on 40 lines: they lose 1 % of the characters at 70 % zeros,
    while 50 % zeros in the convolutions by magnitude alone leave nothing readable."""
    return prune_and_pack(["Linear"], pattern, sparsity)


def preprocess(image: np.ndarray, width: int = WIDTH) -> np.ndarray:
    """f32[48, any, 3] in [0, 1] -> f32[1, 3, 48, width] in [-1, 1]: cut at the right or padded with zeros, as the model was trained."""
    chw = (image[:, :width] * 2 - 1).transpose(2, 0, 1)[None]
    return np.pad(chw, ((0, 0), (0, 0), (0, 0), (0, width - chw.shape[3]))).astype(np.float32)


def decode(probabilities: np.ndarray) -> list[str]:
    """CTC: the best character per position, repeats merged, blanks (class 0) dropped (Graves et al. 2006)."""
    alphabet = _alphabet()
    best = probabilities.argmax(axis=2)
    changed = np.diff(best, axis=1, prepend=0) != 0
    return ["".join(alphabet[c] for c in row[new & (row > 0)]) for row, new in zip(best, changed, strict=True)]


@cache
def _alphabet() -> list[str]:
    import onnx

    metadata = {p.key: p.value for p in onnx.load(build(), load_external_data=False).metadata_props}
    return ["", *metadata["character"].split("\n")[:6623], " "]


def _first_words(sentence: str, characters: int) -> str:
    return sentence[: characters + 1].rsplit(" ", 1)[0] if len(sentence) > characters else sentence
