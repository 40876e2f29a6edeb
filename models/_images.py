"""Images without a download: noise with the spectrum of photographs, and lines of text drawn in fonts that matplotlib ships."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from models._carrier import carried

FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold", "STIXGeneral")


def natural_images(count: int, height: int, width: int, seed: int = 0) -> Iterator[np.ndarray]:
    """f32[height, width, 3] in [0, 1]: amplitude falls as 1/frequency, as in photographs (Field 1987), channels correlated."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf  # no constant part: it is added as a brightness
    mix = np.array([[1, 1, 1], [0.3, 0, -0.3], [0.1, -0.2, 0.1]])  # luminance, then two weaker colour axes
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        spectrum = np.fft.rfft2(rng.standard_normal((3, height, width))) / frequency
        planes = np.fft.irfft2(spectrum, s=(height, width))
        planes /= planes.std(axis=(1, 2), keepdims=True)
        image = np.einsum("phw,pc->hwc", planes, mix) * 0.2 + rng.uniform(0.35, 0.65)
        yield np.clip(image, 0, 1).astype(np.float32)


@dataclass(frozen=True)
class Style:
    """How a line of text looks. font: one of FONTS.  noise: standard deviation of grey levels, in [0, 1]."""

    font: str = FONTS[0]
    ink: float = 0.1
    paper: float = 0.95
    noise: float = 0.02


def random_style(rng: np.random.Generator) -> Style:
    return Style(FONTS[rng.integers(len(FONTS))], ink=rng.uniform(0, 0.3), paper=rng.uniform(0.7, 1), noise=rng.uniform(0, 0.05))


def text_line(text: str, height: int, style: Style = Style(), seed: int = 0) -> np.ndarray:
    """f32[height, width, 3] in [0, 1]: one line, as wide as the text needs."""
    from PIL import Image, ImageDraw

    font = _font(style.font, round(height * 0.7))
    left, _, right, _ = font.getbbox(text)
    margin = height // 6
    image = Image.new("L", (max(1, round(right - left)) + 2 * margin, height), color=255)
    ImageDraw.Draw(image).text((margin - left, height / 2), text, fill=0, font=font, anchor="lm")
    grey = style.ink + (style.paper - style.ink) * np.asarray(image, dtype=np.float32) / 255
    noisy = grey + style.noise * np.random.default_rng(seed).standard_normal(grey.shape)
    return np.repeat(np.clip(noisy, 0, 1).astype(np.float32)[..., None], 3, axis=2)


@cache
def _font(name: str, size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(str(carried("matplotlib", f"mpl-data/fonts/ttf/{name}.ttf", "matplotlib")), size)
