"""Train the small GPT on Python's reference manual and write models/weights/gpt_small.safetensors: about five minutes of one core.

python -m models.train.gpt_small [--device cuda] [--steps 1500]
"""

from __future__ import annotations

import torch
from torch import Tensor

from models._text import corpus
from models._transformer import initialized
from models.gpt_small import TOKENS, GptSmall, held_out
from models.train.loop import kept, options, train

STEPS = 1500
BATCH = 12
RATE = 2e-3


def main() -> None:
    arguments = options(__doc__, STEPS)
    torch.manual_seed(arguments.seed)
    module, text = initialized(GptSmall()), corpus(held_out=False)
    seconds = train(module, lambda generator: batch(text, generator), arguments.steps, RATE, arguments.device, arguments.seed)
    kept(module, "gpt_small", seconds, f"perplexity {perplexity(module):.3f} per character of held-out text")


def batch(text: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(ids, the ids that follow), int64[12, 128], from anywhere in the text."""
    starts = torch.randint(len(text) - TOKENS, (BATCH, 1), generator=generator)
    drawn = text[starts + torch.arange(TOKENS + 1)]
    return drawn[:, :-1], drawn[:, 1:]


def perplexity(module: torch.nn.Module) -> float:
    with torch.no_grad():
        ids = held_out(200)
        return float(torch.nn.functional.cross_entropy(module(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).exp())


if __name__ == "__main__":
    main()
