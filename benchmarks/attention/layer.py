"""A layer of the size of CogVideoX-5B's with block-sparse attention, beside the same layer dense with cuDNN's; both by torch.compile.

    python -m benchmarks.attention.layer
    python -m benchmarks.attention.layer --build --cache DIR      # builds the kernels, without a GPU

Weights and maps are random, blocks of 128, the diagonal and the text always kept, a third of the heads each in raster order, with rows
innermost and with frames innermost. A second plan has the same blocks in the model's order.
Writes benchmarks/results/attention-layer.json and .md.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsecc
from benchmarks.attention.kernel import in_turns
from benchmarks.promises import HEAD, Promise, cells
from benchmarks.results import markdown_table, write
from models._rotary import angles, turned
from sparsecc.api.sources import open_graph
from sparsecc.attention.base import BlockMap, Grid, required
from sparsecc.attention.plan import Plan, fingerprint
from sparsecc.codegen.cuda.built import Builder
from sparsecc.codegen.cuda.choose import Chooser
from sparsecc.codegen.cuda.kernel import BlockAttentionSpec
from sparsecc.codegen.cuda.target import Target
from sparsecc.graph.sites import Attention
from sparsecc.timing import Spread

GRID = Grid(13, 30, 45, text_tokens=226)
WIDTH, HEADS, HEAD_DIM, BLOCK = 3072, 48, 64, 128
ORDERS = (0, 1, 5)  # of AXIS_ORDERS
WANTED = {0.3: 1.5, 0.2: 1.65}
_PAIRS = (8, 12, 12)  # rotated pairs for frames, rows, columns
_TOLERANCE = 0.02  # of the largest output, in bfloat16


class VideoLayer(nn.Module):
    """x [1, tokens, WIDTH], modulation [1, 12, WIDTH] -> x. Architecture: Yang et al. 2024."""

    cos: Tensor
    sin: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.query_norm, self.key_norm = nn.LayerNorm(HEAD_DIM), nn.LayerNorm(HEAD_DIM)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        turns = angles(GRID.axes, GRID.text_tokens, _PAIRS)
        self.register_buffer("cos", turns.cos())
        self.register_buffer("sin", turns.sin())

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (_by_token(part) for part in modulation.chunk(6, 1))
        hidden = self.attention_norm(x) * (1 + scale1) + shift1
        q, k, v = (layer(hidden).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        q, k = turned(self.query_norm(q), self.cos, self.sin), turned(self.key_norm(k), self.cos, self.sin)
        x = x + gate1 * self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        hidden = self.mlp_norm(x) * (1 + scale2) + shift2
        return x + gate2 * self.down(F.gelu(self.up(hidden), approximate="tanh"))


def _by_token(part: Tensor) -> Tensor:
    """[1, 2, width], of text and of video, to [1, tokens, width]."""
    text, video = part.expand(-1, -1, WIDTH).unbind(1)
    counts = (GRID.text_tokens, GRID.tokens - GRID.text_tokens)
    return torch.cat([one[:, None].expand(-1, count, -1) for one, count in zip((text, video), counts, strict=True)], 1)


def layer(device: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """With inputs."""
    torch.manual_seed(0)
    module = VideoLayer().to(device, torch.bfloat16).eval().requires_grad_(False)
    inputs = (torch.randn(1, GRID.tokens, WIDTH), 0.3 * torch.randn(1, 12, WIDTH))
    return module, tuple(x.to(device, torch.bfloat16) for x in inputs)  # type: ignore[return-value]


def block_map(density: float, ordered: bool) -> BlockMap:
    count, generator = GRID.blocks(BLOCK), torch.Generator().manual_seed(0)
    needed = required(GRID, BLOCK)
    more = (density * needed.numel() - int(needed.count_nonzero())) / int((~needed).count_nonzero())
    keep = (torch.rand(HEADS, count, count, generator=generator) < more) | needed
    orders = torch.tensor([ORDERS[head % len(ORDERS)] for head in range(HEADS)], dtype=torch.uint8) if ordered else None
    return BlockMap(GRID, BLOCK, orders, keep)


def run(cache: Path, show: Callable[[str], None]) -> list[dict[str, Any]]:
    module, inputs = layer("cuda")
    with torch.no_grad():
        program = torch.export.export(module, inputs)
        dense = torch.compile(module, dynamic=False)
        calls: dict[str, Callable[[], object]] = {"dense": _with_cudnn(lambda: dense(*inputs))}
        calls["dense"]()
        errors, attention = {}, {}
        for density in WANTED:
            for name, ordered in (("", True), (" in the model's order", False)):
                made = _compiled(program, inputs, block_map(density, ordered), cache)
                errors[density, ordered] = made.report.check.max_rel
                if not ordered:
                    attention[density] = _kernel_ms(made)
                fast = torch.compile(made, dynamic=False)
                calls[f"{density:g}{name}"] = functools.partial(fast, *inputs)
                calls[f"{density:g}{name}"]()
                show(f"density {density:g}{name}: off by {errors[density, ordered]:.1e} of the largest output")
        times = in_turns(calls)
    theirs, rows = times["dense"], []
    for density, wanted in WANTED.items():
        mine, plain = times[f"{density:g}"], times[f"{density:g} in the model's order"]
        orders = mine.median - plain.median
        row = {"density": density, "kept": block_map(density, True).density, "ms": mine.to_dict(), "dense_ms": theirs.to_dict()}
        row |= {"at_least": wanted, "error": errors[density, True], "unordered_ms": plain.to_dict()}
        row |= {"kernel_ms": attention[density]}
        show(f"density {density:g}: {mine.median:.2f} ms, dense {theirs.median:.2f}, orders {orders:.2f}, kernel {attention[density]:.2f}")
        rows.append(row)
    return rows


def _compiled(program: Any, inputs: tuple[Tensor, ...], found: BlockMap, cache: Path) -> Any:
    sites = open_graph(program, inputs).sites(Attention)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        Plan.of(fingerprint((site.name, site.heads, site.head_dim) for site in sites), {sites[0].name: found}).save(path)
        recipe = {"passes": [{"reorder_tokens": {"plan": str(path)}}]}
        return sparsecc.compile(program, inputs, recipe=recipe, target="cuda", cache=cache)


def _kernel_ms(made: Any) -> float:
    """As `compile` timed it."""
    [row] = [row for row in made.report.kernels if row.form.startswith("block attention")]
    return row.us[row.chosen] / 1e3


def _with_cudnn(call: Callable[[], object]) -> Callable[[], object]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def made() -> object:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return call()

    return made


def promises(rows: list[dict[str, Any]]) -> list[Promise]:
    found = []
    for row in rows:
        name, mine, theirs = f"CogVideoX-5B layer, density {row['density']:g}", row["ms"], row["dense_ms"]
        times = Spread(theirs["median"] / mine["median"], theirs["p10"] / mine["p90"], theirs["p90"] / mine["p10"])
        right = row["error"] < _TOLERANCE
        found.append(Promise("layer", name, "torch.compile, cuDNN", times, row["at_least"], right=right, ms=mine["median"]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/sparsecc/cuda").expanduser())
    options = parser.parse_args()
    if options.build:
        chooser = Chooser(Target(("sm_90a",)), Builder(options.cache), measure=False)
        for ordered in (True, False):
            sizes = (1, HEADS, HEADS, GRID.tokens, HEAD_DIM, HEAD_DIM**-0.5, BLOCK)
            chooser.alone(BlockAttentionSpec(*sizes, ordered=ordered, tokens_first="V"))
        return 0
    rows = run(options.cache, lambda line: print(line, flush=True))
    found = promises(rows)
    table = markdown_table(["what", *HEAD], [[promise.what, *cells(promise)] for promise in found])
    write("attention-layer", {"device": torch.cuda.get_device_name(), "rows": rows}, f"{table}\n\n{torch.cuda.get_device_name()}.")
    print(table)
    return 0 if all(promise.reached for promise in found) else 1


if __name__ == "__main__":
    sys.exit(main())
