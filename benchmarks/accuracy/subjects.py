"""The four models whose quality is set against time: how to run them with inputs of one shape, and what makes them good."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.accuracy import gpt, minilm, ocr, vit
from benchmarks.accuracy.common import Sizes
from benchmarks.accuracy.frontier import Axis
from benchmarks.export import exported
from benchmarks.peers import Workload
from models import gpt_small, pp_ocr_rec, vit_small
from models import minilm as sentence_encoder
from models._lines import lines

Arrays = Mapping[str, np.ndarray]
_RANGES = 16  # inputs by which the peers find the ranges of int8


@dataclass(frozen=True)
class Case:
    """work: of fixed shape.  calibration: as sparsecc takes it.  held_out: inputs of work's shape.  quality: of the first outputs for
    these, given those of the dense model in float32.  scope: `targets` of the passes."""

    work: Workload
    calibration: Sequence[Any]
    held_out: Sequence[Arrays]
    quality: Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], float]
    scope: Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """title: names the model and the shape.  transformer: what NNCF is told of it.
    left_out: variants so sparse that nothing useful is left of the model, by name."""

    title: str
    axis: Axis
    load: Callable[[Sizes], Case]
    transformer: bool
    full: Sizes
    quick: Sizes
    left_out: tuple[str, ...] = ()


def load_minilm(sizes: Sizes) -> Case:
    names = ("input_ids", "attention_mask")
    module, inputs = sentence_encoder.build(), sentence_encoder.example_inputs(1)
    texts = sentence_encoder.calibration_sentences(sizes.samples)
    ranges = [_named(names, sample) for sample in sentence_encoder.calibration(_RANGES)]
    work = Workload("minilm", exported("minilm", module, inputs, names), _named(names, inputs), module, ranges)
    held_out = [_named(names, sentence_encoder.tokenize([text])) for text in sentence_encoder.held_out(sizes.held_out)]
    masks = [torch.from_numpy(sample["attention_mask"]) for sample in held_out]

    def vectors(outputs: Sequence[np.ndarray]) -> Tensor:
        return torch.cat([sentence_encoder.embed(torch.from_numpy(y), mask) for y, mask in zip(outputs, masks, strict=True)])

    def quality(outputs: Sequence[np.ndarray], dense: Sequence[np.ndarray]) -> float:
        return float((vectors(outputs) * vectors(dense)).sum(1).mean())

    return Case(work, sentence_encoder.batches(texts, minilm.BATCH), held_out, quality, {"targets": minilm.ENCODER})


def load_ocr(sizes: Sizes) -> Case:
    size = pp_ocr_rec.HEIGHT, pp_ocr_rec.WIDTH
    drawn = list(lines(sizes.samples, *size))
    others = list(lines(sizes.held_out, *size, held_out=True))
    images, held_out = ([{"x": pp_ocr_rec.preprocess(line.image)} for line in some] for some in (drawn, others))
    work = Workload("pp_ocr_rec", pp_ocr_rec.build(), _copied(images[0]), calibration=images[:_RANGES])

    def quality(outputs: Sequence[np.ndarray], dense: Sequence[np.ndarray]) -> float:
        return ocr.judged(others, [text for y in outputs for text in pp_ocr_rec.decode(y)])["wrong characters"]

    return Case(work, images, held_out, quality, {})


def load_gpt(sizes: Sizes) -> Case:
    module, windows = gpt_small.build(), gpt_small.training_windows(sizes.samples)
    others = gpt_small.held_out(sizes.held_out)
    ranges = [_named(("ids",), (ids[None],)) for ids in windows[:_RANGES]]
    path = exported("gpt_small", module, (windows[:1],), ("ids",))
    work = Workload("gpt_small", path, _copied(ranges[0]), module, ranges)

    def quality(outputs: Sequence[np.ndarray], dense: Sequence[np.ndarray]) -> float:
        return gpt.judged([torch.from_numpy(np.concatenate(outputs))], others)["perplexity"]

    calibration = [(ids,) for ids in windows.split(gpt.BATCH)]
    return Case(work, calibration, [_named(("ids",), (ids[None, :-1],)) for ids in others], quality, gpt.BLOCKS)


def load_vit(sizes: Sizes) -> Case:
    module, images = vit_small.build(), vit_small.training_images(sizes.samples)
    others, labels = vit_small.held_out(sizes.held_out)
    ranges = [_named(("images",), (part,)) for part in images.split(vit.BATCH)[:_RANGES]]
    path = exported("vit_small", module, (images[: vit.BATCH],), ("images",))
    work = Workload("vit_small", path, _copied(ranges[0]), module, ranges)

    def quality(outputs: Sequence[np.ndarray], dense: Sequence[np.ndarray]) -> float:
        return float((torch.from_numpy(np.concatenate(outputs)).argmax(1) == labels).float().mean())

    calibration = [(part,) for part in images.split(vit.BATCH)]
    return Case(work, calibration, [_named(("images",), (part,)) for part in others.split(vit.BATCH)], quality, vit.BLOCKS)


def _named(names: Sequence[str], tensors: Sequence[Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in zip(names, tensors, strict=True)}


def _copied(sample: Arrays) -> dict[str, np.ndarray]:
    return {name: value.copy() for name, value in sample.items()}


SUBJECTS: Mapping[str, Subject] = {
    "minilm": Subject(
        "MiniLM, one sentence padded to 128 tokens",
        Axis("mean cosine", ".3f", lower_is_better=False, shown=0.7),
        load_minilm,
        transformer=True,
        full=Sizes(samples=1000, held_out=128),  # 256 are learnt by heart
        quick=Sizes(samples=16, held_out=8),
    ),
    "ocr": Subject(
        "PP-OCRv4's recognizer, one line of 48 x 320 pixels",
        Axis("wrong characters", ".1%", lower_is_better=True, shown=0.2),
        load_ocr,
        transformer=False,
        full=Sizes(samples=32, held_out=192),
        quick=Sizes(samples=4, held_out=8),
        left_out=("unstructured 80%", "unstructured 90%", "4x1 70%"),
    ),
    "gpt": Subject(
        "A GPT of 0.8 M parameters, one window of 128 characters",
        Axis("perplexity", ".2f", lower_is_better=True, shown=6.2),
        load_gpt,
        transformer=True,
        full=Sizes(samples=256, held_out=256),
        quick=Sizes(samples=8, held_out=8),
    ),
    "vit": Subject(
        "A ViT of 0.5 M parameters, 32 images of 16 patches",
        Axis("top-1", ".1%", lower_is_better=False, shown=0.86),
        load_vit,
        transformer=True,
        full=Sizes(samples=512, held_out=1440),
        quick=Sizes(samples=64, held_out=64),
    ),
}
