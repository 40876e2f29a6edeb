from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.attention import quality, variants
from benchmarks.attention.sampled import Sampler
from models import video_dit_small
from models._locality import SCALE, planted
from models.train.video_dit_small import initialized
from sparsecc import attention
from sparsecc.attention.base import Asked, BlockMap, Grid

GRID = Grid(4, 8, 8, text_tokens=3)
BLOCK = 16


def asked(density: float) -> Asked:
    return variants.asked_of([planted(GRID, (4, 0))], GRID, density, BLOCK)


def rows(**means: float) -> list[dict[str, Any]]:
    """By pattern, its PSNR; the other columns follow it."""
    return [
        {"pattern": name, "density": 0.3, "kept": 0.3, "psnr": [mean - 1, mean + 1], "ssim": [mean / 50] * 2, "features": [1 / mean] * 2}
        for name, mean in means.items()
    ]


def test_the_raster_order_loses_more_of_a_head_that_looks_along_another_axis() -> None:
    one, other = (variants.block_map(variants.variants()[name], asked(0.3)) for name in (variants.PARO, variants.RASTER))
    assert isinstance(one, BlockMap) and isinstance(other, BlockMap)
    assert one.orders is not None and one.orders.tolist() == [4, 0]
    assert other.orders is None and one.density == other.density
    assert not variants.RASTER.startswith(variants.PARO)  # or it would count as PARO's own
    assert torch.equal(one.keep[1], other.keep[1]) and not torch.equal(one.keep[0], other.keep[0])


@pytest.mark.parametrize("name", variants.variants())
def test_everybody_has_about_the_density_asked_for(name: str) -> None:
    pattern = variants.variants()[name]
    for density in (0.3, 0.5):
        found = variants.block_map(pattern, asked(density))
        assert density - 0.1 <= found.density <= density + variants.MOST_MORE
    assert asked(0.3).scale == SCALE


def test_more_patterns_can_be_named() -> None:
    found = variants.variants(["sliding_window:32"])
    assert found["sliding_window:32"] == attention.create("sliding_window:32")
    assert list(found)[:2] == [variants.PARO, variants.RASTER]


def test_what_has_to_hold() -> None:
    assert quality.holds(rows(paro=30, other=27.5, third=20))
    assert not quality.holds(rows(paro=30, other=28.5))
    assert quality.holds([*rows(paro=30, other=27.5), *({**row, "pattern": "paro:all"} for row in rows(one=31))])
    assert not quality.holds([*rows(paro=30), *(row | {"ssim": [0.9, 0.9]} for row in rows(other=20))])


def test_the_table_shows_the_spread_and_the_gain() -> None:
    text = quality.table(rows(paro=30, other=27.5), "About.")
    assert "| 30% | paro | 30.0% | 30.0 ± 1.4 | 0.600 ± 0.000 |" in text
    assert (
        "At 30%: best by PSNR in dB paro, SSIM paro, feature distance paro; paro's PSNR is +2.5 dB over the next best with as many blocks."
        in text
    )


def test_a_model_sampled_densely_and_with_maps() -> None:
    torch.manual_seed(0)
    model = initialized(video_dit_small.VideoDitSmall(width=64, layers=2, heads=1)).eval().requires_grad_(False)
    for layer in (model.modulation, model.unpatch):
        torch.nn.init.normal_(layer.weight, std=0.1)
    sampler = Sampler(model, steps=2, groups=2)
    samples = sampler.calibration([quality.CALIBRATION[0]], [1])
    assert [[one.q.shape for one in site] for group in samples for site in group] == [[(2, 1, 2064, 64)]] * 4
    assert not torch.equal(samples[0][0][0].q, samples[1][0][0].q)
    grid = Grid(*video_dit_small.GRID, video_dit_small.TEXT)

    def maps(density: float) -> list[list[Any]]:
        window = attention.create("sliding_window")
        return [[window.choose(Asked(grid, 1, 0.125, density)).map for _ in range(2)] for _ in range(2)]

    dense, whole, half = (sampler.videos([video_dit_small.HELD_OUT[0]], [3], these) for these in (None, maps(1.0), maps(0.5)))
    assert torch.allclose(dense, whole, atol=1e-4)
    found = quality.distances(sampler, dense, half)
    assert found["psnr"][0] < quality.distances(sampler, dense, whole)["psnr"][0]
    assert found["features"][0] > 1e-6 and found["ssim"][0] < 1
    assert sampler.feature_distances(dense, dense) == [0.0]
    assert quality.picture([dense, half]).shape == (3, 2 * 2 * 66, 2 * (8 * 66 - 2))


def test_steps_are_shared_out_evenly() -> None:
    sampler = Sampler(video_dit_small.VideoDitSmall(width=64, layers=1, heads=1), steps=8, groups=3)
    assert [sampler.group(step) for step in range(8)] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_a_pattern_that_keeps_more_is_compared_with_as_many_blocks() -> None:
    found = rows(paro=20.0, loki=17.0, skip_softmax=19.5, **{"paro, as many blocks as skip_softmax": 22.0})
    assert quality.gain_db(found, 0.3) == 2.5 and quality.holds(found)
    assert quality._best(found, 0.3, "psnr") == "paro"
