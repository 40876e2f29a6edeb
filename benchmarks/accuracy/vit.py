"""A small ViT of our own with half and less of its weights: how many digits it still tells, one-shot and after distillation.

python -m benchmarks.accuracy.vit [--quick] [--row TEXT ...]
"""

from __future__ import annotations

import sys

from torch import Tensor

from benchmarks.accuracy.common import Evaluation, Sizes, Subject, main, one_shot_and_distilled
from models import vit_small
from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph

BLOCKS = {"targets": [r"re:blocks\..*"]}
BATCH = 32  # images of a calibration sample
_TOGETHER = 360  # images that are judged in one run


def load(sizes: Sizes) -> Subject:
    calibration = [(images,) for images in vit_small.training_images(sizes.samples).split(BATCH)]
    images, labels = vit_small.held_out(sizes.held_out)
    graph = FxGraph.from_module(vit_small.build(), calibration[0], "vit_small")
    return Subject(graph, calibration, lambda rewritten: figures(rewritten, images, labels), BLOCKS)


def figures(graph: Graph, images: Tensor, labels: Tensor) -> dict[str, float]:
    """top-1: the share of images whose largest logit is the right one."""
    right = 0
    for part, wanted in zip(images.split(_TOGETHER), labels.split(_TOGETHER), strict=True):
        right += int((graph.run((part,)).outputs[0].argmax(1) == wanted).sum())
    return {"top-1": right / len(labels)}


EVALUATION = Evaluation(
    name="vit",
    about=(
        "A ViT of 0.5 M parameters for distorted digits, all 24 linear layers of its blocks, calibrated on {samples} images, "
        "judged by {held_out} of digits that neither training nor calibration has seen; distillation takes {steps} steps."
    ),
    rows=one_shot_and_distilled(),
    load=load,
    figures={"top-1": ".1%"},
    lower_is_better=False,
    full=Sizes(samples=512, held_out=1440, steps=200),
    quick=Sizes(samples=64, held_out=72, steps=3),
)


if __name__ == "__main__":
    sys.exit(main(EVALUATION))
