from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models._png import strip, write_png


def test_another_library_reads_the_same_levels(tmp_path: Path) -> None:
    image = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    write_png(tmp_path / "image.png", image)
    levels = (image.clamp(-1, 1) * 127.5 + 127.5).round().permute(1, 2, 0).numpy().astype(np.uint8)
    with Image.open(tmp_path / "image.png") as read:
        assert np.array_equal(np.asarray(read), levels)


def test_frames_stand_beside_each_other_with_white_between() -> None:
    video = torch.arange(4.0).reshape(1, 4, 1, 1).expand(3, 4, 2, 3) / 10
    found = strip(video, every=2, gap=1)
    assert found.shape == (3, 2, 7)
    assert torch.equal(found[0, 0], torch.tensor([0.0, 0.0, 0.0, 1.0, 0.2, 0.2, 0.2]))
    assert torch.equal(strip(video, every=2, gap=0)[1, 1], torch.tensor([0.0, 0.0, 0.0, 0.2, 0.2, 0.2]))
