"""Train the small video diffusion transformer on moving shapes: about eight minutes of one GPU.

    python -m models.train.video_dit_small --seconds 420 --out OUT     on a machine with a GPU; torch and numpy are all that it needs
    python -m models.train.video_dit_small --keep OUT/weights.npz      here: writes models/weights/video_dit_small.safetensors

OUT gets weights.npz (averaged weights, float16), samples.png (a caption a row, every second frame), half.png (the same with a random half
of the blocks of every attention left out), samples.npz and training.json (the loss over time; how far both are apart). The learning rate
falls to zero at the end of the seconds given, however many steps they hold; sampling comes on top.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models._attention_calls import masked, spread
from models._clips import clips
from models._png import strip, write_png
from models._video_distance import psnr
from models._weights import keep
from models.video_dit_small import GRID, HELD_OUT, LAYERS, STEPS, TEXT, VideoDitSmall, noise_of, sample

BLOCK = 64
UNTOLD = 0.1  # of the captions are left out, for guidance
AVERAGED = 0.999  # how much of the averaged weights a step keeps, later
WARMUP, FLAT = 0.02, 0.4  # of the time: when the learning rate is whole, and when it begins to fall
MEAN, SPREAD = 0.5, 1.2  # of the time's logit (Esser et al. 2024)
HELD_OUT_CLIPS = 64


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.keep is not None:
        print(keep(loaded(arguments.keep), "video_dit_small"))
        return
    out, device = Path(arguments.out), torch.device(arguments.device)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    model, averaged, losses = train(arguments, device)
    write(averaged, out / "weights.npz")
    print(f"{out / 'weights.npz'}: {sum(p.numel() for p in model.parameters()):,} parameters, {losses[-1]['step']} steps", flush=True)
    found = judged(averaged, out, device, arguments.sampling_steps)
    settings = {key: value for key, value in vars(arguments).items() if key not in ("out", "keep")}
    document = {"settings": settings, "torch": torch.__version__, **found, "losses": losses}
    (out / "training.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(found), flush=True)


def train(arguments: argparse.Namespace, device: torch.device) -> tuple[nn.Module, nn.Module, list[dict[str, float]]]:
    """The model, the same with averaged weights, and the losses along the way."""
    start = time.perf_counter()
    model = initialized(VideoDitSmall(layers=arguments.layers)).to(device)
    averaged = VideoDitSmall(layers=arguments.layers).to(device).eval().requires_grad_(False)
    averaged.load_state_dict(model.state_dict())
    optimizers = _optimizers(model, arguments)
    generator = torch.Generator(device).manual_seed(arguments.seed)
    if arguments.compile:
        for block in model.blocks:
            block.compile()  # one piece of code for all of them
    losses, step, share = _Losses(arguments.report, torch.zeros((), device=device)), 0, 0.0
    while share < 1:
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * _rate(share)
        loss = _step(model, optimizers, _batch(arguments.batch, generator), device)
        _average(averaged, model, min(AVERAGED, (1 + step) / (10 + step)))
        step += 1
        if step % 10 == 0 and device.type == "cuda":
            torch.cuda.synchronize(device)  # or steps would be queued beyond the end
        seconds = time.perf_counter() - start
        share = seconds / arguments.seconds
        losses.add(loss, step, seconds, last=share >= 1)
    return model, averaged, losses.told


@dataclass
class _Losses:
    """Means over all steps since the last line, one line in `every` seconds: only then is the device waited for."""

    every: float
    sum: Tensor
    told: list[dict[str, float]] = field(default_factory=list)

    def add(self, loss: Tensor, step: int, seconds: float, last: bool) -> None:
        """Raises RuntimeError where the mean is no number."""
        self.sum = self.sum + loss
        before = self.told[-1] if self.told else {"step": 0, "seconds": 0.0}
        passed, steps = seconds - before["seconds"], step - before["step"]
        if passed < self.every and not last:
            return
        mean = float(self.sum) / steps
        if not math.isfinite(mean):
            raise RuntimeError(f"the loss is no number after {step} steps")
        print(f"{seconds:5.0f} s, step {step}: loss {mean:.4f}, {steps / passed:.2f} steps/s", flush=True)
        self.told.append({"step": step, "seconds": seconds, "loss": mean})
        self.sum = torch.zeros_like(self.sum)


def initialized(model: VideoDitSmall) -> VideoDitSmall:
    """Matrices with a standard deviation of 1/√in, embeddings 0.5, biases zero. What gates layers is zero, and so is the output."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.0 if name in ("modulation", "unpatch") else module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    nn.init.normal_(model.words.weight, std=0.5)
    nn.init.normal_(model.places, std=0.5)
    return model


def flow_loss(model: nn.Module, video: Tensor, text: Tensor, noise: Tensor, at: Tensor) -> Tensor:
    """Mean squared error of the velocity noise − video at times `at`."""
    found = model(torch.lerp(video, noise, at[:, None, None, None, None]), text, at)
    return F.mse_loss(found.float(), noise - video)


def judged(model: nn.Module, out: Path, device: torch.device, steps: int) -> dict[str, Any]:
    """Held-out loss, samples of captions with dense attention and with a random half of the blocks left out, and their distance."""
    model.eval()
    captions = HELD_OUT
    with torch.no_grad():
        generator = torch.Generator(device).manual_seed(1 << 20)
        video, text = clips(HELD_OUT_CLIPS, generator)
        noise = torch.randn(video.shape, generator=generator, device=device)
        at = torch.linspace(0.05, 0.95, HELD_OUT_CLIPS, device=device)
        losses = [flow_loss(model, *parts) for parts in zip(*(x.split(8) for x in (video, text, noise, at)), strict=True)]
        start = noise_of(range(len(captions)), device)
        dense = sample(model, captions, start, steps)
        with masked(_random_halves(model, device)):
            half = sample(model, captions, start, steps)
    for name, videos in (("samples", dense), ("half", half)):
        write_png(out / f"{name}.png", torch.cat([F.pad(strip(one, 2), (0, 0, 0, 2), value=1.0) for one in videos], 1))
    np.savez_compressed(out / "samples.npz", captions=np.array(captions), dense=_levels(dense), half=_levels(half))
    return {
        "held_out_loss": float(torch.stack(losses).mean()),
        "psnr_half_of_the_blocks_db": [round(psnr(a, b), 2) for a, b in zip(dense, half, strict=True)],
        "psnr_other_noise_db": [round(psnr(a, b), 2) for a, b in zip(dense, dense.roll(1, 0), strict=True)],
        "sample_standard_deviation": float(dense.std()),
    }


def write(model: nn.Module, path: Path) -> None:
    """All weights in float16: what `models._weights.keep` would write, for machines without safetensors."""
    np.savez(path, **{name: value.detach().cpu().half().numpy() for name, value in model.state_dict().items()})


def loaded(path: str) -> VideoDitSmall:
    """What `write` wrote, in eval mode, gradients off."""
    with np.load(path, allow_pickle=False) as stored:
        state = {name: torch.from_numpy(stored[name]).float() for name in stored.files}
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    model = VideoDitSmall(layers=layers)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def _batch(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """video, text, noise, time."""
    device = generator.device
    video, text = clips(count, generator)
    untold = torch.rand(count, 1, generator=generator, device=device) < UNTOLD
    noise = torch.randn(video.shape, generator=generator, device=device)
    logit = MEAN + SPREAD * torch.randn(count, generator=generator, device=device)
    return video, text.masked_fill(untold, 0), noise, logit.sigmoid()


def _step(
    model: nn.Module, optimizers: list[tuple[torch.optim.Optimizer, float]], batch: tuple[Tensor, ...], device: torch.device
) -> Tensor:
    video, text, noise, at = batch
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        loss = flow_loss(model, video, text, noise, at)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, _ in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _optimizers(model: nn.Module, arguments: argparse.Namespace) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon (Jordan et al. 2024) for the blocks' matrices, AdamW for all others; each with its learning rate."""
    matrices = [p for name, p in model.named_parameters() if name.startswith("blocks.") and name.endswith(".weight") and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    fused = next(model.parameters()).is_cuda
    muon = torch.optim.Muon(matrices, lr=arguments.rate, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=arguments.other_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=fused)
    return [(muon, arguments.rate), (adamw, arguments.other_rate)]


def _rate(share: float) -> float:
    """Of the learning rate, after that share of the time: up, flat, and down along a line."""
    return min(share / WARMUP + 0.01, 1.0, max(1 - share, 0.0) / (1 - FLAT))


def _average(averaged: nn.Module, model: nn.Module, kept: float) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - kept)  # type: ignore[reportPrivateImportUsage]


def _random_halves(model: nn.Module, device: torch.device) -> list[Tensor]:
    """A mask for each layer: half of the blocks, drawn for each head; text and the diagonal stay."""
    tokens = TEXT + math.prod(GRID)
    blocks = -(-tokens // BLOCK)
    heads = model.blocks[0].attention.heads  # type: ignore[index,union-attr]
    places = torch.arange(tokens, device=device).expand(heads, -1)
    generator = torch.Generator().manual_seed(0)
    masks = []
    for _ in range(len(model.blocks)):  # type: ignore[arg-type]
        kept = (torch.rand(heads, blocks, blocks, generator=generator) < 0.5) | torch.eye(blocks, dtype=torch.bool)
        kept[:, 0] = kept[:, :, 0] = True
        masks.append(spread(kept.to(device), places, BLOCK))
    return masks


def _levels(videos: Tensor) -> np.ndarray:
    """uint8, of videos in [-1, 1]."""
    return (videos * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="video_dit_small-out", help="folder for weights, samples and the loss")
    parser.add_argument("--seconds", type=float, default=420, help="of training; the first step, which compiles, is among them")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--rate", type=float, default=5e-3, help="largest learning rate of the blocks' matrices (Muon)")
    parser.add_argument("--other-rate", type=float, default=2e-3, help="largest learning rate of everything else (AdamW)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="the blocks, by torch.compile")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--sampling-steps", type=int, default=STEPS)
    parser.add_argument("--report", type=float, default=10, help="seconds between two lines about the loss")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", metavar="WEIGHTS.npz", help="trains nothing: keeps these weights in models/weights")
    return parser


if __name__ == "__main__":
    main()
