from __future__ import annotations

import numpy as np
import pytest

from benchmarks import untuned_inputs as given

pytest.importorskip("PIL")


@pytest.mark.parametrize(
    ("make", "low", "high"),
    [(given.page, -1, 1), (given.imagenet_page, -3, 3), (given.byte_page, 0, 255), (given.photograph, 0, 1), (given.normal_image, -9, 9)],
)
def test_images_have_content(make, low, high):
    [(name, image)] = make("x", 96, 64).items()
    assert (name, image.shape, image.dtype) == ("x", (1, 3, 96, 64), np.float32)
    assert low <= image.min() < image.max() <= high
    assert image.std() > 0.05 * (high - low)


def test_lines_have_content():
    grey, colour = given.grey_line("x", 64, 160)["x"], given.colour_line("x", 192)["x"]
    assert grey.shape == (1, 1, 64, 160) and 0 <= grey.min() < grey.max() <= 1
    assert colour.shape == (1, 3, 48, 192) and colour.std() > 0.1


def test_sounds_are_loud_and_not_clipped():
    sound = given.chord("x", 2048)["x"]
    assert sound.shape == (1, 2048, 1) and 0.3 < np.abs(sound).max() <= 1
    assert [(k, v.shape) for k, v in given.speech_frames(2).items()] == [("input", (2, 576)), ("h", (1, 1, 128)), ("c", (1, 1, 128))]


def test_bytes_and_letters_are_indices():
    code = given.source_code("bytes", 256)["bytes"]
    assert code.shape == (1, 256) and code.dtype == np.int32 and bytes(code[0, :3].astype(np.uint8)) == b'"""'
    assert {k: v.shape for k, v in given.letters(5).items()} == {"char_inputs": (1, 5), "diac_inputs": (1, 5), "input_lengths": (1,)}
    assert given.letter_codes("x", 40)["x"].max() == 29
