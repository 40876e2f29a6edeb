"""PP-OCR's text recognizer with half of its weights: how many characters it gets wrong, one-shot and after least squares for each layer.

    python -m benchmarks.accuracy.ocr [--quick] [--row TEXT ...]

Every layer that can be sparse is: linear layers, convolutions, the gates between them. Depthwise convolutions and the smallest layers
stay dense by themselves. Lines to read are drawn in twelve fonts, turned, blurred, noisy, faint (`models/_lines.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.accuracy.common import Evaluation, Row, Sizes, Subject, main
from models import pp_ocr_rec
from models._lines import Line, lines
from sparsecc.autotune.metrics.cer import edits
from sparsecc.graph.base import Graph
from sparsecc.graph.onnx.graph import OnnxGraph

BATCH = 4  # lines that run together
WITHIN = {"unstructured": 0.01, "2:4": 0.02}  # of the characters, after recovery


def rows() -> tuple[Row, ...]:
    found = [Row(None)]
    for pattern, within in WITHIN.items():
        found.append(Row(pattern, criterion="random", allocation="uniform" if ":" in pattern else "erk"))
        found.append(Row(pattern, criterion="spectral"))
        for criterion in ("magnitude", "wanda", "sparsegpt", "alps"):
            promise = within if criterion == "sparsegpt" else None
            found += [Row(pattern, criterion=criterion), Row(pattern, criterion=criterion, method="reconstruction", within=promise)]
    for criterion in ("sparsegpt", "alps"):
        evenly = Row("unstructured", criterion=criterion, compare="output")
        found += [evenly, replace(evenly, method="reconstruction")]
    return tuple(found)


def load(sizes: Sizes) -> Subject:
    graph, calibration, others = given(sizes)
    return Subject(graph, calibration, lambda rewritten: figures(rewritten, others), scope={})


def given(sizes: Sizes) -> tuple[OnnxGraph, list[dict[str, np.ndarray]], list[Line]]:
    """The model, inputs to calibrate on, and lines to judge by."""
    size = pp_ocr_rec.HEIGHT, pp_ocr_rec.WIDTH
    calibration = [{"x": batch} for batch in batches(list(lines(sizes.samples, *size)))]
    return OnnxGraph.from_file(pp_ocr_rec.build()), calibration, list(lines(sizes.held_out, *size, held_out=True))


def batches(drawn: Sequence[Line]) -> list[np.ndarray]:
    """f32[4, 3, 48, 320] each; the last may have fewer."""
    images = [pp_ocr_rec.preprocess(line.image) for line in drawn]
    return [np.concatenate(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]


def figures(graph: Graph, others: Sequence[Line]) -> dict[str, float]:
    return judged(others, read(graph, others))


def read(graph: Graph, others: Sequence[Line]) -> list[str]:
    return [text for batch in batches(others) for text in pp_ocr_rec.decode(graph.run({"x": batch}).outputs[0].numpy())]


def judged(others: Sequence[Line], texts: Sequence[str]) -> dict[str, float]:
    """wrong characters: edits needed, by the characters there are.  right lines: read without any edit."""
    needed = edited(others, texts)
    return {
        "wrong characters": sum(needed) / sum(len(line.text) for line in others),
        "right lines": sum(count == 0 for count in needed) / len(others),
    }


def edited(others: Sequence[Line], texts: Sequence[str]) -> list[int]:
    """The edits that each line needs."""
    return [edits(line.text, text.strip()) for line, text in zip(others, texts, strict=True)]


EVALUATION = Evaluation(
    name="ocr",
    about=(
        "PP-OCRv4's recognizer, every layer but depthwise convolutions and those of fewer than 1024 weights, calibrated on {samples} lines "
        "of text, judged by {held_out} others."
    ),
    rows=rows(),
    load=load,
    figures={"wrong characters": ".2%", "right lines": ".0%"},
    lower_is_better=True,
    full=Sizes(samples=64, held_out=192),
    quick=Sizes(samples=8, held_out=16),
)


if __name__ == "__main__":
    sys.exit(main(EVALUATION))
