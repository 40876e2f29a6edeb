"""Pictures that models see at work: crops of photographs that packages carry, pages and captchas drawn with text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.carriers import fetched
from models._carrier import carried
from models._images import FONTS
from models._sentences import sentences

_PACKAGE = "scikit-image==0.26.0"
_PHOTOS = {
    False: ("astronaut.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "ihc.png", "china.jpg"),
    True: ("chelsea.png", "hubble_deep_field.jpg", "retina.jpg", "flower.jpg"),
}
"""By whether they are held out."""
_SCIKIT_LEARN = ("china.jpg", "flower.jpg")  # which scikit-learn carries
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz23456789"


def photo(drawn: np.random.Generator, height: int, width: int, held_out: bool) -> Image.Image:
    """RGB: a piece of one of the photographs, of 40 to 100 % of its size, at times mirrored, lighter or darker."""
    whole = _opened(str(drawn.choice(_PHOTOS[held_out])))
    scale = drawn.uniform(0.4, 1.0) * min(whole.width / width, whole.height / height)
    w, h = int(width * scale), int(height * scale)
    x, y = int(drawn.integers(whole.width - w + 1)), int(drawn.integers(whole.height - h + 1))
    piece = whole.crop((x, y, x + w, y + h)).resize((width, height), Image.Resampling.BILINEAR)
    if drawn.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return piece.point([min(255, round(value * light)) for light in [drawn.uniform(0.7, 1.3)] for value in range(256)] * 3)


@cache
def _opened(name: str) -> Image.Image:
    path = (
        carried("sklearn", f"datasets/images/{name}", "scikit-learn")
        if name in _SCIKIT_LEARN
        else fetched(_PACKAGE, f"skimage/data/{name}")
    )
    return Image.open(io.BytesIO(path.read_bytes())).convert("RGB")


def page(drawn: np.random.Generator, size: int, held_out: bool) -> Image.Image:
    """RGB, square: lines of prose on paper, upright."""
    image = Image.new("RGB", (size, size), tuple(int(v) for v in drawn.integers(215, 256, 3)))
    height = int(drawn.integers(size // 24, size // 10))
    first = 1000 + 8 * int(drawn.integers(50)) if held_out else 8 * int(drawn.integers(100))
    text = " ".join(sentences(8, skip=first))
    font, pen, ink = _font(drawn, height), ImageDraw.Draw(image), int(drawn.integers(0, 70))
    margin, y = size // 20, size // 20
    for line in _lines(text.split(), font, size - 2 * margin):
        if y > size - margin - height:
            break
        pen.text((margin, y), line, fill=(ink, ink, ink), font=font)
        y += int(1.4 * height)
    return _noisy(image, drawn, 4)


def _lines(words: Sequence[str], font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def captcha(drawn: np.random.Generator, height: int, width: int) -> Image.Image:
    """RGB: four to six letters and digits, each turned and coloured, with strokes across them."""
    image = Image.new("RGB", (width, height), tuple(int(v) for v in drawn.integers(200, 256, 3)))
    count = int(drawn.integers(4, 7))
    for place in range(count):
        _letter(image, drawn, int(height * drawn.uniform(0.5, 0.75)), (place + 0.5) * width / count, height / 2)
    pen = ImageDraw.Draw(image)
    for _ in range(int(drawn.integers(2, 6))):
        ends = [int(v) for v in drawn.integers(0, (width, height, width, height))]
        pen.line(ends, fill=_colour(drawn), width=int(drawn.integers(1, 3)))
    return _noisy(image, drawn, 8)


def lettered(drawn: np.random.Generator, height: int, width: int, held_out: bool) -> Image.Image:
    """RGB: a photograph with three to six large letters on it, as captchas have that are to be clicked in an order."""
    image = photo(drawn, height, width, held_out)
    for _ in range(int(drawn.integers(3, 7))):
        size = int(height * drawn.uniform(0.12, 0.22))
        _letter(image, drawn, size, drawn.uniform(size, width - size), drawn.uniform(size, height - size))
    return image


def _letter(image: Image.Image, drawn: np.random.Generator, size: int, x: float, y: float) -> None:
    """One letter, its middle at x, y, turned by up to 30 degrees."""
    mask = Image.new("L", (2 * size, 2 * size))
    ImageDraw.Draw(mask).text((size, size), str(drawn.choice(list(_LETTERS))), fill=255, font=_font(drawn, size), anchor="mm")
    mask = mask.rotate(drawn.uniform(-30, 30), Image.Resampling.BILINEAR)
    image.paste(_colour(drawn), (round(x) - size, round(y) - size), mask)


def _colour(drawn: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in drawn.integers(0, 160, 3))
    return red, green, blue


def _font(drawn: np.random.Generator, size: int) -> ImageFont.FreeTypeFont:
    return _loaded(str(drawn.choice(FONTS)), size)


@cache
def _loaded(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(carried("matplotlib", f"mpl-data/fonts/ttf/{name}.ttf", "matplotlib")), size)


def _noisy(image: Image.Image, drawn: np.random.Generator, by: float) -> Image.Image:
    values = np.asarray(image, np.float32) + by * drawn.standard_normal((image.height, image.width, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
