"""The small video model: two of its layers where weights do not matter, the whole one where they do."""

from __future__ import annotations

from functools import cache

import torch

from models import video_dit_small as video
from models._attention_calls import masked, spread
from models._clips import clips
from models.train.video_dit_small import flow_loss, initialized
from sparsecc.attention.base import BlockMap
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Attention
from sparsecc.passes.reorder_tokens import ReorderTokens
from tests.tolerance import assert_close


@cache
def drawn() -> video.VideoDitSmall:
    """With random weights, such that every layer does something."""
    torch.manual_seed(0)
    model = initialized(video.VideoDitSmall(layers=2)).eval().requires_grad_(False)
    for layer in (model.modulation, model.unpatch):
        torch.nn.init.normal_(layer.weight, std=0.05)
    return model


def test_patches_come_together_again() -> None:
    videos = torch.randn(2, *video.SHAPE, generator=torch.Generator().manual_seed(0))
    found = video.patches(videos)
    assert found.shape == (2, 8 * 16 * 16, 96)
    assert torch.equal(video.video_of(found), videos)
    assert torch.equal(found[1, 16 + 1], videos[1, :, :2, 4:8, 4:8].flatten())  # row 1, column 1 of the first frames


def test_sampling_is_the_same_each_time_and_follows_noise_and_caption() -> None:
    noise = video.noise_of([5])
    one, again = (video.sample(drawn(), [video.HELD_OUT[0]], noise, steps=2) for _ in range(2))
    assert one.shape == (1, *video.SHAPE) and one.isfinite().all()
    assert torch.equal(one, again)
    assert not torch.allclose(one, video.sample(drawn(), [video.HELD_OUT[1]], noise, steps=2))
    assert not torch.allclose(one, video.sample(drawn(), [video.HELD_OUT[0]], video.noise_of([6]), steps=2))


def test_times_go_from_noise_to_clean_and_more_slowly_at_first() -> None:
    times = video.times_of(8)
    assert times[0] == 1 and times[-1] == 0 and times == sorted(times, reverse=True)
    assert times[0] - times[1] < times[-2] - times[-1]


def test_layers_made_block_sparse_are_those_with_the_maps_as_masks() -> None:
    inputs = video.example_inputs()
    graph = FxGraph.from_module(drawn(), inputs)
    sites = graph.sites(Attention)
    assert [site.name for site in sites] == ["blocks.0.attention", "blocks.1.attention"]
    assert {(site.heads, site.head_dim, site.tokens) for site in sites} == {(3, 64, 2064)}
    sparse = ReorderTokens(grid=video.GRID, text_tokens=video.TEXT, density=0.3, pattern="sliding_window").apply(graph).graph
    maps = [site.block_map for site in sparse.sites(Attention)]
    masks = [spread(one.keep, one.places(), one.block) for one in maps if isinstance(one, BlockMap)]
    with masked(masks):
        expected = drawn()(*inputs)
    assert_close(sparse.run(inputs).outputs[0], expected)
    assert not torch.allclose(expected, drawn()(*inputs), rtol=1e-3)


def test_trained_weights_predict_velocities_of_clips_that_they_have_not_seen() -> None:
    model, generator = video.build(), torch.Generator().manual_seed(77)
    videos, text = clips(2, generator)
    noise = torch.randn(videos.shape, generator=generator)
    with torch.no_grad():
        loss = float(flow_loss(model, videos, text, noise, torch.tensor([0.3, 0.7])))
    assert loss < 0.15  # 1.2 untrained
