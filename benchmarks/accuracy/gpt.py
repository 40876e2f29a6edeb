"""A small GPT of our own with half and less of its weights: its perplexity on text that it has not seen, one-shot and after distillation.

python -m benchmarks.accuracy.gpt [--quick] [--row TEXT ...]
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch
from torch import Tensor

from benchmarks.accuracy.common import Evaluation, Sizes, Subject, main, one_shot_and_distilled
from models import gpt_small
from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph

BLOCKS = {"targets": [r"re:blocks\..*"]}
BATCH = 4  # windows of a calibration sample
_TOGETHER = 64  # windows that are judged in one run


def load(sizes: Sizes) -> Subject:
    calibration = [(ids,) for ids in gpt_small.training_windows(sizes.samples).split(BATCH)]
    others = gpt_small.held_out(sizes.held_out)
    graph = FxGraph.from_module(gpt_small.build(), calibration[0], "gpt_small")
    return Subject(graph, calibration, lambda rewritten: figures(rewritten, others), BLOCKS)


def figures(graph: Graph, others: Tensor) -> dict[str, float]:
    """others: int64[windows, tokens + 1]."""
    return judged((graph.run((ids[:, :-1],)).outputs[0] for ids in others.split(_TOGETHER)), others)


def judged(logits: Iterable[Tensor], others: Tensor) -> dict[str, float]:
    """logits: float[some windows, tokens, characters], of all windows in order.
    perplexity: e to the mean cross-entropy of a character.  bits: that in bits."""
    entropy, seen = 0.0, 0
    for part in logits:
        wanted = others[seen : seen + len(part), 1:]
        entropy += float(torch.nn.functional.cross_entropy(part.flatten(0, 1), wanted.flatten(), reduction="sum"))
        seen += len(part)
    mean = torch.tensor(entropy / others[:, 1:].numel())
    return {"perplexity": float(mean.exp()), "bits per character": float(mean) / float(torch.tensor(2.0).log())}


EVALUATION = Evaluation(
    name="gpt",
    about=(
        "A GPT of 0.8 M parameters over characters, all 24 linear layers of its blocks, calibrated on {samples} windows of 128 characters, "
        "judged by {held_out} windows of text that neither training nor calibration has seen; distillation takes {steps} steps."
    ),
    rows=one_shot_and_distilled(),
    load=load,
    figures={"perplexity": ".3f", "bits per character": ".3f"},
    lower_is_better=True,
    full=Sizes(samples=256, held_out=256, steps=200),
    quick=Sizes(samples=8, held_out=16, steps=3),
)


if __name__ == "__main__":
    sys.exit(main(EVALUATION))
