from __future__ import annotations

import torch

from models._digits import digits, distorted


def test_digits_are_on_one_side_each() -> None:
    (mine, labels), (others, other_labels) = digits(held_out=False), digits(held_out=True)
    assert len(mine) + len(others) == 1797 and len(mine) == len(labels) and len(others) == len(other_labels) == 360
    assert mine.shape[1:] == (1, 8, 8) and float(mine.min()) == 0 and float(mine.max()) == 1
    assert set(labels.tolist()) == set(other_labels.tolist()) == set(range(10))


def test_distortions_differ_from_image_to_image_and_come_again_with_their_seed() -> None:
    images, _ = digits(held_out=True)
    first, again, other = (distorted(images[:1].expand(5, 1, 8, 8), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == (5, 1, 16, 16)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert all(not torch.allclose(first[0], image, atol=0.5) for image in first[1:])
    assert float(first.mean()) < 0  # ink stays the smaller part
