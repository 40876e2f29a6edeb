from __future__ import annotations

from pathlib import Path

import torch

from models import video_dit_small as video
from models.train import video_dit_small as training


def test_weights_come_back_in_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = training.initialized(video.VideoDitSmall(layers=1))
    training.write(model, tmp_path / "weights.npz")
    back = training.loaded(str(tmp_path / "weights.npz"))
    assert len(back.blocks) == 1 and not back.training and not any(p.requires_grad for p in back.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value.half().float())


def test_an_untrained_model_predicts_nothing() -> None:
    model = training.initialized(video.VideoDitSmall(width=64, layers=1, heads=1)).requires_grad_(False)
    inputs, text, time = video.example_inputs()
    noise = torch.zeros_like(inputs)
    assert torch.equal(model(inputs, text, time), noise)
    assert torch.isclose(training.flow_loss(model, inputs, text, noise, time), inputs.square().mean())


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    rates = [training._rate(share) for share in (0.0, 0.01, 0.1, training.FLAT, 0.7, 1.0)]
    assert rates[:2] == [0.01, 0.51] and rates[2:4] == [1.0, 1.0] and rates[-1] == 0.0
    assert 0 < rates[4] < 1


def test_a_step_moves_every_weight_that_has_a_gradient_and_lowers_the_loss() -> None:
    torch.manual_seed(0)
    model = training.initialized(video.VideoDitSmall(width=64, layers=1, heads=1))
    arguments = training._parser().parse_args(["--device", "cpu"])
    optimizers = training._optimizers(model, arguments)
    assert sum(len(group["params"]) for one, _ in optimizers for group in one.param_groups) == len(list(model.parameters()))
    batch = training._batch(1, torch.Generator().manual_seed(0))
    losses = [float(training._step(model, optimizers, batch, torch.device("cpu"))) for _ in range(6)]
    assert losses[-1] < losses[0] - 0.01


def test_averaged_weights_follow() -> None:
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).requires_grad_(False)
    expected = 0.9 * other.weight + 0.1 * one.weight.detach()
    training._average(other, one, 0.9)
    assert torch.allclose(other.weight, expected)


def test_half_of_the_blocks_are_left_out() -> None:
    model = video.VideoDitSmall(width=64, layers=2, heads=1)
    masks = training._random_halves(model, torch.device("cpu"))
    assert len(masks) == 2 and not torch.equal(*masks)
    assert all(mask[:, : video.TEXT].all() and mask.diagonal(dim1=1, dim2=2).all() for mask in masks)
    assert all(0.5 < float(mask.float().mean()) < 0.6 for mask in masks)
