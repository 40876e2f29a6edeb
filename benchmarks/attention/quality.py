"""What sparse attention costs a trained video model: its videos against those of dense attention from the same noise.

    python -m benchmarks.attention.quality --device cuda
    python -m benchmarks.attention.quality --quick          # a few steps of one video on a CPU, written nowhere

Every head of every layer keeps the same density at every step; patterns that come in coarse steps take the nearest they have. Maps are
chosen on the way of a dense sampler from other captions and other noise, for each group of steps anew where the pattern looks at samples.
torch computes attention with the maps as masks: the figures are about maps, not about kernels. Writes
benchmarks/results/attention-quality.json, .md and .png.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import results
from benchmarks.attention.sampled import Sampler
from benchmarks.attention.variants import PARO, asked_of, block_map, variants
from models import video_dit_small
from models._png import strip, write_png
from models._video_distance import psnr, ssim
from models.train.video_dit_small import loaded
from models.video_dit_small import GRID, HELD_OUT, STEPS, TEXT
from sparsecc.attention.base import BLOCK, Grid, Pattern, Sample

NAME = "attention-quality"
DENSITIES = (0.5, 0.3)
LEAST_GAIN_DB = 2.0  # of PARO over the next best, at the lowest density
CALIBRATION = ("orange square moves right , green 4 moves up on rows", "blue triangle races down , white 6 moves left on columns")
CALIBRATION_SEEDS = (9001, 9002)
COLUMNS = {"psnr": "PSNR in dB", "ssim": "SSIM", "features": "feature distance"}
DRAWN = (0, 1)  # videos in the picture
_EQUAL = 0.015  # densities that differ by less are equal: of 33 blocks in a row one is 0.03
_GRID = Grid(*GRID, TEXT)

Row = dict[str, Any]


def measure(
    sampler: Sampler,
    captions: Sequence[str],
    seeds: Sequence[int],
    densities: Sequence[float],
    also: Sequence[str] = (),
    choose_on: torch.device | None = None,
) -> Iterator[tuple[Row, Tensor]]:
    """A row and its videos for each density and pattern, after one of dense attention. Where a pattern keeps more than the density, as it
    cannot keep less, a row of PARO with as many blocks follows. Captions and seeds: one each for each video.  choose_on: where maps are
    chosen, if not where the model is."""
    dense = sampler.videos(captions, seeds)
    yield {"pattern": "dense", "density": 1.0, "kept": 1.0}, dense
    device = choose_on or sampler.device
    samples = [[_on(device, site) for site in group] for group in sampler.calibration(CALIBRATION, CALIBRATION_SEEDS)]

    def made(name: str, pattern: Pattern, density: float, share: float) -> tuple[Row, Tensor]:
        """share: that the pattern is asked for."""
        with device:  # what patterns make anew has to be where the samples are
            maps = [[block_map(pattern, asked_of(site, _GRID, share, BLOCK)) for site in group] for group in _few(pattern, samples)]
        shares: list[Tensor] = []
        videos = sampler.videos(captions, seeds, maps if len(maps) == sampler.groups else maps * sampler.groups, shares)
        kept = float(torch.stack(shares).mean()) if shares else statistics.mean(one.density for group in maps for one in group)
        return {"pattern": name, "density": density, "kept": kept, **distances(sampler, dense, videos)}, videos

    every = variants(also)
    for density, (name, pattern) in itertools.product(densities, every.items()):
        row, videos = made(name, pattern, density, density)
        yield row, videos
        if row["kept"] > density + _EQUAL and not name.startswith(PARO):
            yield made(_as_many(name), every[PARO], density, row["kept"])


def distances(sampler: Sampler, dense: Tensor, videos: Tensor) -> dict[str, list[float]]:
    """By column, one figure for each video."""
    pairs = list(zip(dense, videos, strict=True))
    return {
        "psnr": [psnr(a, b) for a, b in pairs],
        "ssim": [ssim(a, b) for a, b in pairs],
        "features": sampler.feature_distances(dense, videos),
    }


def table(rows: Sequence[Row], about: str) -> str:
    """rows: without that of dense attention."""
    head = ("density", "pattern", "blocks kept", *(f"{title} (± over videos)" for title in COLUMNS.values()))
    body = [
        (
            f"{row['density']:.0%}",
            row["pattern"],
            f"{row['kept']:.1%}",
            *(_spread(row[key], digits) for key, digits in zip(COLUMNS, (1, 3, 4))),
        )
        for row in rows
    ]
    gains = "\n".join(f"At {density:.0%}: {_gain_text(rows, density)}." for density in _densities(rows))
    return f"{about}\n\n{results.markdown_table(head, body)}\n\n{gains}"


def gain_db(rows: Sequence[Row], density: float) -> float:
    """PARO's mean PSNR over that of the best that does not reorder as it does, each against PARO with no more blocks."""
    means = {row["pattern"]: statistics.mean(row["psnr"]) for row in rows if row["density"] == density}
    return min(means.get(_as_many(name), means[PARO]) - mean for name, mean in means.items() if not name.startswith(PARO))


def _as_many(name: str) -> str:
    """PARO's row beside a pattern that keeps more blocks than asked for."""
    return f"{PARO}, as many blocks as {name}"


def holds(rows: Sequence[Row]) -> bool:
    """PARO, perhaps with more orders than the axes', is best in every column at every density, and by at least 2 dB at the lowest."""
    best = all(_best(rows, density, key).startswith(PARO) for density in _densities(rows) for key in COLUMNS)
    return best and gain_db(rows, min(_densities(rows))) >= LEAST_GAIN_DB


def picture(videos: Sequence[Tensor]) -> Tensor:
    """f32[3, height, width]: for each drawn video a row for each of `videos` [3, frames, height, width], every second frame, twice as
    large as it is."""
    rows = [F.pad(strip(one[video], 2), (0, 0, 0, 2), value=1.0) for video in range(len(videos[0])) for one in videos]
    return torch.cat(rows, 1).repeat_interleave(2, 1).repeat_interleave(2, 2)


def main() -> int:
    arguments = _parser().parse_args()
    steps, groups, seeds = (4, 1, 1) if arguments.quick else (arguments.steps, arguments.groups, arguments.seeds)
    module = video_dit_small.build() if arguments.weights is None else loaded(arguments.weights)
    assert isinstance(module, video_dit_small.VideoDitSmall)
    sampler = Sampler(module.to(arguments.device), steps, groups)
    captions = [caption for caption in HELD_OUT[: 1 if arguments.quick else None] for _ in range(seeds)]
    numbers = [100 * i + seed for i in range(len(captions) // seeds) for seed in range(seeds)]
    rows, drawn = [], []
    lowest = min(arguments.densities)
    choose_on = torch.device(arguments.choose_on or arguments.device)
    for row, videos in measure(sampler, captions, numbers, arguments.densities, arguments.pattern, choose_on):
        print(_line(row), flush=True)
        if row["pattern"] == "dense" or row["density"] == lowest:
            drawn.append((row["pattern"], videos[[i * seeds for i in DRAWN if i * seeds < len(videos)]].cpu()))
        if row["pattern"] != "dense":
            rows.append(row)
    if not arguments.quick:
        _write(arguments, rows, drawn, captions)
    return 0 if holds(rows) or arguments.quick else 1


def _write(arguments: argparse.Namespace, rows: list[Row], drawn: list[tuple[str, Tensor]], captions: Sequence[str]) -> None:
    about = (
        f"`video_dit_small`, {_GRID}, blocks of {BLOCK}, {arguments.steps} steps in {arguments.groups} groups with maps of their own, "
        f"{len(captions)} videos of {len(set(captions))} captions. Against dense attention from the same noise: higher PSNR and SSIM and "
        "lower feature distance are better."
    )
    rows_drawn = ", ".join(name for name, _ in drawn)
    text = f"{table(rows, about)}\n\nRows of the picture, for each of its videos, at {min(arguments.densities):.0%}: {rows_drawn}."
    settings = {key: value for key, value in vars(arguments).items() if key not in ("out", "weights", "quick")}
    document = {
        "settings": settings,
        "captions": list(captions),
        "grid": str(_GRID),
        "block": BLOCK,
        "rows": rows,
        "drawn": rows_drawn,
    }
    paths = results.write(NAME, document, text)
    write_png(results.FOLDER / f"{NAME}.png", picture([videos for _, videos in drawn]))
    print(text, *paths, results.FOLDER / f"{NAME}.png", sep="\n")
    if arguments.out is not None:
        for path in (*paths, results.FOLDER / f"{NAME}.png"):
            (Path(arguments.out) / path.name).write_bytes(path.read_bytes())


def _on(device: torch.device, samples: Sequence[Sample]) -> list[Sample]:
    return [Sample(*(x.to(device) for x in sample)) for sample in samples]


def _few(pattern: Any, samples: list[list[list[Sample]]]) -> list[list[list[Sample]]]:
    """The groups for which a pattern has to choose: one where it does not look at samples."""
    return samples if pattern.needs_samples else samples[:1]


def _best(rows: Sequence[Row], density: float, key: str) -> str:
    better = min if key == "features" else max
    equal = [row for row in rows if row["density"] == density and not row["pattern"].startswith(_as_many(""))]
    return better(equal, key=lambda row: statistics.mean(row[key]))["pattern"]


def _gain_text(rows: Sequence[Row], density: float) -> str:
    best = ", ".join(f"{title} {_best(rows, density, key)}" for key, title in COLUMNS.items())
    return f"best by {best}; paro's PSNR is {gain_db(rows, density):+.1f} dB over the next best with as many blocks"


def _densities(rows: Sequence[Row]) -> list[float]:
    return sorted({row["density"] for row in rows}, reverse=True)


def _spread(figures: Sequence[float], digits: int) -> str:
    deviation = statistics.stdev(figures) if len(figures) > 1 else 0.0
    return f"{statistics.mean(figures):.{digits}f} ± {deviation:.{digits}f}"


def _line(row: Row) -> str:
    figures = "".join(f", {key} {statistics.mean(row[key]):.4g}" for key in COLUMNS if key in row)
    return f"{row['pattern']} at {row['density']:.0%}: {row['kept']:.1%} of the blocks{figures}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", metavar="WEIGHTS.npz", help="as training writes them, for a machine without safetensors")
    parser.add_argument("--seeds", type=int, default=3, help="videos for each caption")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the sampler")
    parser.add_argument("--groups", type=int, default=4, help="of steps, each with maps of its own where a pattern looks at samples")
    parser.add_argument("--densities", type=float, nargs="+", default=list(DENSITIES))
    parser.add_argument("--pattern", action="append", default=[], help="another one, as recipes name it: sliding_window:512")
    parser.add_argument("--choose-on", metavar="DEVICE", help="where maps are chosen, if not on --device: orders by clusters need cpu")
    parser.add_argument("--quick", action="store_true", help="one video in four steps")
    parser.add_argument("--out", help="folder that gets a copy of what is written")
    return parser


if __name__ == "__main__":
    sys.exit(main())
