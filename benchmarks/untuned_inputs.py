"""Inputs that the untuned models answer with more than noise: text, pictures, sound and bytes, prepared as each package prepares them.

A detector that finds nothing says so with sigmoids of 1e-7, and a comparison of those compares rounding.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from models import pp_ocr_det, pp_ocr_rec
from models._images import natural_images, text_line

_IMAGENET_MEAN, _IMAGENET_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
Arrays = dict[str, np.ndarray]


def page(name: str, height: int, width: int) -> Arrays:
    """f32[1, 3, height, width] in [-1, 1]: lines of text, as the detectors of PaddleOCR take them."""
    return {name: _nchw(_page(height, width) * 2 - 1)}


def imagenet_page(name: str, height: int, width: int) -> Arrays:
    """f32[1, 3, height, width]: the same page with ImageNet's mean and standard deviation taken out."""
    return {name: _nchw((_page(height, width) - _IMAGENET_MEAN) / _IMAGENET_STD)}


def byte_page(name: str, height: int, width: int) -> Arrays:
    """f32[1, 3, height, width] in [0, 255]: the same page as YOLOX takes it."""
    return {name: _nchw(_page(height, width) * 255)}


def grey_line(name: str, height: int, width: int) -> Arrays:
    """f32[1, 1, height, width] in [0, 1]: one line of text, cut at the right."""
    return {name: _nchw(text_line(pp_ocr_rec.texts(1)[0], height)[:, :width, :1])}


def colour_line(name: str, width: int) -> Arrays:
    """f32[1, 3, 48, width] in [-1, 1]: one line of text, as the recognizers of PaddleOCR take it."""
    return {name: pp_ocr_rec.example_inputs(1, width)["x"]}


def photograph(name: str, height: int, width: int) -> Arrays:
    """f32[1, 3, height, width] in [0, 1]."""
    return {name: _nchw(next(natural_images(1, height, width)))}


def normal_image(name: str, height: int, width: int) -> Arrays:
    """f32[1, 3, height, width]: normal noise, which is all that a network with drawn weights asks for."""
    return {name: np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32)}


def chord(name: str, samples: int, rate: int = 22050) -> Arrays:
    """f32[1, samples, 1] in [-1, 1]: a C major chord, four harmonics each."""
    seconds = np.arange(samples) / rate
    tones = (np.sin(2 * np.pi * note * k * seconds) / k for note in (261.63, 329.63, 392.0) for k in range(1, 5))
    return {name: (sum(tones, np.zeros(samples)) / 8).astype(np.float32)[None, :, None]}


def source_code(name: str, count: int) -> Arrays:
    """i32[1, count]: the first and the last bytes of this file."""
    content = np.frombuffer(Path(__file__).read_bytes(), np.uint8).astype(np.int32)
    return {name: np.concatenate([content[: count // 2], content[-count // 2 :]])[None]}


def letters(count: int) -> Arrays:
    """The three inputs of an encoder of characters: indices, no diacritics, the length."""
    indices = np.arange(1, count + 1, dtype=np.int64)[None] % 30
    return {"char_inputs": indices, "diac_inputs": np.zeros_like(indices), "input_lengths": np.array([count], np.int64)}


def letter_codes(name: str, count: int) -> Arrays:
    """f32[1, count]: indices of characters in a float tensor."""
    return {name: np.arange(count, dtype=np.float32)[None] % 30}


def speech_frames(frames: int) -> Arrays:
    """Frames of 576 samples of a chord, and the two states of an LSTM."""
    sound = chord("input", frames * 576, rate=16000)["input"].reshape(frames, 576)
    return {"input": sound, "h": np.zeros((1, 1, 128), np.float32), "c": np.zeros((1, 1, 128), np.float32)}


def _page(height: int, width: int) -> np.ndarray:
    """f32[height, width, 3] in [0, 1]."""
    [sample] = islice(pp_ocr_det.calibration(1, max(height, width)), 1)
    return (sample["x"][0].transpose(1, 2, 0)[:height, :width] + 1) / 2


def _nchw(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32)
