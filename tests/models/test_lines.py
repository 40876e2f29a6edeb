from __future__ import annotations

import numpy as np
import pytest

from models._images import Style, text_line
from models._lines import FONTS, Distortion, distorted, lines, texts


def test_no_line_is_on_both_sides() -> None:
    mine, others = texts(16, held_out=False), texts(16, held_out=True)
    assert len(set(mine)) == len(mine) > 1000 and len(set(others)) == len(others) > 1000
    assert not set(mine) & set(others)
    assert all(6 <= len(text) <= 16 and text == text.strip() for text in mine + others)


def test_lines_are_the_same_every_time_and_fit_the_width() -> None:
    first, again = list(lines(12, 48, 200)), list(lines(12, 48, 200))
    for a, b in zip(first, again, strict=True):
        assert a.text == b.text
        np.testing.assert_array_equal(a.image, b.image)
        assert a.image.shape[0] == 48 and a.image.shape[1] <= 200 and a.image.dtype == np.float32
        assert a.image.min() >= 0 and a.image.max() <= 1


def test_no_two_lines_look_alike() -> None:
    found = list(lines(4, 48, 320)) + list(lines(4, 48, 320, held_out=True))
    assert len({line.image[..., 0].tobytes() for line in found}) == 8


@pytest.mark.parametrize("font", FONTS)
def test_every_font_has_the_letters(font: str) -> None:
    """Each letter has ink of its own: a missing one would be the box that all missing ones share."""
    drawn = [text_line(letter, 32, Style(font, noise=0.0))[..., 0] for letter in "abcdefgxyzABCXYZ0189"]
    assert all(image.min() < 0.5 for image in drawn)
    assert len({image.tobytes() for image in drawn}) == len(drawn)


def test_distortions_do_what_they_say() -> None:
    style = Style(ink=0.0, paper=1.0, noise=0.0)
    image = text_line("Hello there", 48, style)
    plain = distorted(image, 1.0, 1000, Distortion())
    assert np.abs(plain - image).max() < 0.01
    assert distorted(image, 1.0, 1000, Distortion(stretch=0.5)).shape[1] == round(image.shape[1] * 0.5)
    assert distorted(image, 1.0, 60, Distortion()).shape[1] == 60
    for softer in (Distortion(blur=2.0), Distortion(detail=0.3)):
        assert (
            np.abs(np.diff(distorted(image, 1.0, 1000, softer)[..., 0], axis=1)).max() < 0.7 * np.abs(np.diff(plain[..., 0], axis=1)).max()
        )
    turned = distorted(image, 1.0, 1000, Distortion(degrees=5.0))
    assert turned[0, 0, 0] == 1.0 and not np.allclose(turned, plain, atol=0.3)  # paper turns into view
