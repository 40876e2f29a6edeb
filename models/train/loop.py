"""One loop for both models: AdamW with a warm-up and a cosine, everything drawn from one seed."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from torch import Tensor, nn

from models._weights import keep

if TYPE_CHECKING:
    from pathlib import Path

Batch = tuple[Tensor, Tensor]
_WARMUP = 0.05  # of the steps
_REPORTS = 20


def options(about: str | None, steps: int) -> argparse.Namespace:
    """What both commands take: --device, --steps, --seed."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="where it trains: cpu (the committed weights), cuda")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def train(module: nn.Module, draw: Callable[[torch.Generator], Batch], steps: int, rate: float, device: str, seed: int) -> float:
    """Cross-entropy (inputs -> logits[..., classes], labels[...]) by AdamW (Loshchilov and Hutter 2019). Returns the seconds that it took.

    draw: a batch, on the CPU, from a generator whose state is the only one there is: the same batches on every device.
    """
    console, generator = Console(), torch.Generator().manual_seed(seed)
    module.to(device).train()
    decayed = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    adamw = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}], lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: _share(step, steps))
    start = time.perf_counter()
    for step in range(1, steps + 1):
        inputs, labels = (x.to(device) for x in draw(generator))
        loss = nn.functional.cross_entropy(module(inputs).flatten(0, -2), labels.flatten())
        adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        adamw.step()
        schedule.step()
        if step % max(steps // _REPORTS, 1) == 0:
            console.print(f"step {step} of {steps}: loss {loss.item():.3f}, {time.perf_counter() - start:.0f} s", highlight=False)
    module.to("cpu").eval()
    return time.perf_counter() - start


def kept(module: nn.Module, name: str, seconds: float, held_out: str) -> Path:
    """Write the weights and say how good they are. held_out: the figure, in words."""
    path = keep(module, name)
    Console().print(f"{path}: {sum(p.numel() for p in module.parameters()):,} parameters, {seconds:.0f} s, {held_out}", highlight=False)
    return path


def _share(step: int, steps: int) -> float:
    """Of the learning rate."""
    return min((step + 1) / max(_WARMUP * steps, 1), 0.05 + 0.475 * (1 + math.cos(math.pi * min(step / steps, 1.0))))
