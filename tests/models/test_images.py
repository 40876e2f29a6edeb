from __future__ import annotations

import numpy as np
import pytest

from models._images import FONTS, Style, natural_images, text_line


def test_natural_images_are_in_range_and_vary() -> None:
    images = list(natural_images(3, 40, 56))
    assert all(i.shape == (40, 56, 3) and i.dtype == np.float32 and i.min() >= 0 and i.max() <= 1 for i in images)
    assert all(i.std() > 0.05 for i in images)
    assert not np.allclose(images[0], images[1])


def test_natural_images_have_more_energy_in_low_frequencies() -> None:
    (image,) = natural_images(1, 128, 128)
    power = np.abs(np.fft.rfft2(image.mean(axis=2) - image.mean())) ** 2
    assert power[1:8, 1:8].mean() > 50 * power[32:64, 32:64].mean()


@pytest.mark.parametrize("font", FONTS)
def test_text_line_has_the_height_asked_and_shows_ink(font: str) -> None:
    image = text_line("Hello", 32, Style(font))
    assert image.shape[0] == 32 and image.shape[2] == 3
    assert image.min() < 0.3 and image.max() > 0.9


def test_longer_text_is_wider() -> None:
    assert text_line("wwww", 32).shape[1] < text_line("wwwwwwww", 32).shape[1]
