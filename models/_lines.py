"""Lines of text as a camera might see them, without a download: many fonts, slightly turned, blurred, noisy, faint, in low resolution.

Lines to calibrate on and lines held out are cut from different sentences, and no line is in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from models._images import Style, text_line
from models._sentences import sentences

FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10"),
)
"""Of those that matplotlib ships, the ones with letters; the Computer Modern ones have ASCII's letters and digits where they belong."""

_SENTENCES = 400  # on each side
_SHORTEST = 6  # characters


@dataclass(frozen=True)
class Distortion:
    """degrees: turned by.  blur: radius of a Gaussian in pixels.  stretch: of the width.  detail: height in pixels, as a share of the
    final one, in which the line was taken before it was enlarged."""

    degrees: float = 0.0
    blur: float = 0.0
    stretch: float = 1.0
    detail: float = 1.0


@dataclass(frozen=True)
class Line:
    """image: f32[height, width, 3] in [0, 1]."""

    text: str
    image: np.ndarray


def lines(count: int, height: int, width: int, held_out: bool = False, characters: int = 16) -> Iterator[Line]:
    """Lines of at most `characters` and at most `width` pixels, the same every time. Raises UserError where there are fewer."""
    for i, text in enumerate(texts(characters, held_out)[:count]):
        yield drawn(text, height, width, seed=(i, int(held_out)))


@cache
def texts(characters: int, held_out: bool) -> list[str]:
    """Whole words of sentences, different ones on each side."""
    mine = _cut(sentences(_SENTENCES, skip=1000 if held_out else 0), characters)
    if held_out:
        others = set(texts(characters, held_out=False))
        mine = [text for text in mine if text not in others]
    return mine


def drawn(text: str, height: int, width: int, seed: tuple[int, ...]) -> Line:
    """In a font, contrast and distortion drawn from `seed`, narrowed where it would be wider than `width`."""
    rng = np.random.default_rng(seed)
    style = Style(str(rng.choice(FONTS)), ink=rng.uniform(0, 0.35), paper=rng.uniform(0.6, 1), noise=0.0)
    distortion = Distortion(rng.uniform(-2, 2), rng.uniform(0, 1), rng.uniform(0.85, 1.1), rng.uniform(0.4, 1))
    image = distorted(text_line(text, height, style), style.paper, width, distortion)
    return Line(text, np.clip(image + rng.uniform(0, 0.08) * rng.standard_normal(image.shape[:2])[..., None], 0, 1).astype(np.float32))


def distorted(image: np.ndarray, paper: float, width: int, distortion: Distortion) -> np.ndarray:
    """f32[height, at most width, 3] of f32[height, any, 3]; what turns into view is paper."""
    from PIL import Image, ImageFilter

    height = image.shape[0]
    line = Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8))
    line = line.rotate(distortion.degrees, Image.Resampling.BICUBIC, fillcolor=round(paper * 255))
    narrowed = min(width, max(1, round(line.width * distortion.stretch)))
    line = line.resize((max(1, round(narrowed * distortion.detail)), max(1, round(height * distortion.detail))), Image.Resampling.BILINEAR)
    line = line.resize((narrowed, height), Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(distortion.blur))
    return np.repeat(np.asarray(line, dtype=np.float32)[..., None] / 255, 3, axis=2)


def _cut(found: list[str], characters: int) -> list[str]:
    """Every sentence in lines, as a page would break it; each line once."""
    kept: dict[str, None] = {}
    for sentence in found:
        line = ""
        for word in [*sentence.split(), None]:
            longer = f"{line} {word}".strip() if word is not None else ""
            if word is not None and len(longer) <= characters:
                line = longer
                continue
            if _SHORTEST <= len(line) <= characters:
                kept[line] = None
            line = word or ""
    return list(kept)
