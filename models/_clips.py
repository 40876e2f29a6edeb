"""Short videos with captions, drawn on the fly: bright shapes and digits move over a background and hide each other.

A background is plain, or a random texture that stands still: `rows` and `columns` are stripes of random greys, `clouds` are smooth in
both directions. What a texture is at one place shows in every frame, and along a row or a column, so that a model has to look there.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

FRAMES, PIXELS = 16, 64
OBJECTS = 3  # at most
TEXT = 16  # words of a caption, padded with empty ones
COLOURS = {
    "red": (1.0, -0.7, -0.7),
    "green": (-0.7, 0.8, -0.7),
    "blue": (-0.6, -0.3, 1.0),
    "yellow": (1.0, 0.9, -0.7),
    "cyan": (-0.7, 0.9, 0.9),
    "magenta": (1.0, -0.6, 0.9),
    "orange": (1.0, 0.2, -0.8),
    "white": (1.0, 1.0, 1.0),
}
SHAPES = ("circle", "square", "triangle", "cross", *"0123456789")
PACES = {"moves": (1.0, 1.6), "races": (2.6, 3.6)}  # pixels for each frame
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
BACKGROUNDS = ("plain", "rows", "columns", "clouds")
WORDS = ("", ",", "on", *COLOURS, *SHAPES, *PACES, *DIRECTIONS, *BACKGROUNDS)
_SIZES = (8.0, 13.0)  # half of an object's height, in pixels
_ATLAS = 48  # pixels of a shape's picture, of which the shape takes the middle
_MARGIN = 1.15  # size of that picture over the shape's
_GLYPHS = (
    "01110 10001 10011 10101 11001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111",
    "01110 10001 00001 00110 00001 10001 01110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
)


def tokens(caption: str) -> Tensor:
    """int64[TEXT] of "red circle moves right , blue 7 races up on rows". Raises ValueError for too many words and those not in WORDS."""
    words = caption.split()
    unknown = [word for word in words if word not in WORDS]
    if unknown:
        raise ValueError(f"no caption has the word {unknown[0]!r}")
    if len(words) > TEXT:
        raise ValueError(f"{len(words)} words, a caption has {TEXT} at most")
    return torch.tensor([WORDS.index(word) for word in words] + [0] * (TEXT - len(words)))


def caption(text: Tensor) -> str:
    """The words of int64[TEXT]."""
    return " ".join(WORDS[word] for word in text.tolist()).strip()


def clips(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(video f32[count, 3, FRAMES, PIXELS, PIXELS] in about [-1, 1], text int64[count, TEXT]), on the generator's device."""

    def drawn(many: int) -> Tensor:
        return torch.randint(many, (count, OBJECTS), generator=generator, device=generator.device)

    colour, shape, pace, direction = drawn(len(COLOURS)), drawn(len(SHAPES)), drawn(len(PACES)), drawn(len(DIRECTIONS))
    objects, kind = 1 + drawn(OBJECTS)[:, 0], drawn(len(BACKGROUNDS))[:, 0]
    shown = torch.arange(OBJECTS, device=generator.device) < objects[:, None]
    video = _backgrounds(kind, generator)[:, :, None].expand(-1, -1, FRAMES, -1, -1)
    covers = _covers(shape, pace, direction, generator) * shown[:, :, None, None, None]
    colours = _tables(generator.device).colours[colour]
    for i in reversed(range(OBJECTS)):  # the first of a caption is in front
        video = torch.lerp(video, colours[:, i, :, None, None, None].expand_as(video), covers[:, i, None])
    return video, _captions(torch.stack([colour, shape, pace, direction], 2), objects, kind)


def _captions(numbers: Tensor, objects: Tensor, kind: Tensor) -> Tensor:
    """numbers: int64[count, OBJECTS, 4], of colour, shape, pace and direction."""
    device = numbers.device
    phrases = F.pad(numbers + _tables(device).first_words, (0, 1), value=WORDS.index(",")).flatten(1)  # five words each
    text = F.pad(phrases, (0, TEXT + 1 - phrases.shape[1]))
    end = 5 * objects[:, None] - 1  # instead of the last comma: "on", background, nothing more
    at = torch.arange(TEXT + 1, device=device)
    text = torch.where(at == end, WORDS.index("on"), text)
    text = torch.where(at == end + 1, WORDS.index(BACKGROUNDS[0]) + kind[:, None], text)
    return torch.where(at > end + 1, 0, text)[:, :TEXT]


def _backgrounds(kind: Tensor, generator: torch.Generator) -> Tensor:
    """f32[count, 3, PIXELS, PIXELS], not as bright as objects are."""
    count, device = len(kind), generator.device
    size = [PIXELS, PIXELS]
    plain = torch.rand(count, 1, 1, 1, generator=generator, device=device).expand(-1, -1, PIXELS, PIXELS)
    rows = F.interpolate(torch.rand(count, 1, PIXELS // 3, 1, generator=generator, device=device), size, mode="bilinear")
    columns = F.interpolate(torch.rand(count, 1, 1, PIXELS // 3, generator=generator, device=device), size, mode="bilinear")
    clouds = F.interpolate(torch.rand(count, 1, 12, 12, generator=generator, device=device), size, mode="bilinear")
    texture = torch.stack([plain, rows, columns, clouds], 1)[torch.arange(count, device=device), kind]
    dark, light = torch.rand(2, count, 3, 1, 1, generator=generator, device=device)
    return torch.lerp((0.5 * dark - 1.0).expand(-1, -1, PIXELS, PIXELS), (0.8 * light - 0.4).expand(-1, -1, PIXELS, PIXELS), texture)


def _covers(shape: Tensor, pace: Tensor, direction: Tensor, generator: torch.Generator) -> Tensor:
    """f32[count, OBJECTS, FRAMES, PIXELS, PIXELS] in [0, 1]: what each object hides."""
    device = generator.device

    def uniform(low: Tensor | float, high: Tensor | float) -> Tensor:
        return low + (high - low) * torch.rand(shape.shape, generator=generator, device=device)

    size = uniform(*_SIZES)
    tables = _tables(device)
    low, high = tables.paces[pace].unbind(-1)
    step = uniform(low, high)[..., None] * tables.directions[direction]
    room = PIXELS - 2 * size
    start = torch.stack([uniform(0.0, room), uniform(0.0, room)], -1)
    times = torch.arange(FRAMES, device=device)[:, None]
    along = (start[:, :, None] + step[:, :, None] * times).remainder(2 * room[..., None, None])
    centre = size[..., None, None] + room[..., None, None] - (along - room[..., None, None]).abs()  # off the walls and back
    return _placed(tables.atlas[shape.flatten()], centre.flatten(0, 1), size.flatten()).unflatten(0, shape.shape)


def _placed(pictures: Tensor, centre: Tensor, size: Tensor) -> Tensor:
    """f32[many, FRAMES, PIXELS, PIXELS]. pictures: [many, 1, _ATLAS, _ATLAS].  centre: [many, FRAMES, 2], x and y in pixels."""
    at = torch.arange(PIXELS, device=size.device) + 0.5
    x, y = ((at - centre[..., axis, None]) / (_MARGIN * size[:, None, None]) for axis in (0, 1))
    grid = torch.stack([x[:, :, None, :].expand(-1, -1, PIXELS, -1), y[..., None].expand(-1, -1, -1, PIXELS)], -1)
    return F.grid_sample(pictures, grid.flatten(1, 2), align_corners=False).reshape(*centre.shape[:2], PIXELS, PIXELS)


class _Tables(NamedTuple):
    colours: Tensor
    paces: Tensor
    directions: Tensor
    first_words: Tensor
    atlas: Tensor


@cache
def _tables(device: torch.device) -> _Tables:
    """On the device once: bringing them there waits for all that it has to do."""
    first = [WORDS.index(next(iter(words))) for words in (COLOURS, SHAPES, PACES, DIRECTIONS)]
    colours, paces, directions = (torch.tensor(list(table.values()), device=device) for table in (COLOURS, PACES, DIRECTIONS))
    return _Tables(colours, paces, directions, torch.tensor(first, device=device), _atlas(device))


def _atlas(device: torch.device) -> Tensor:
    """f32[len(SHAPES), 1, _ATLAS, _ATLAS] in [0, 1]: each shape within [-1, 1] of a picture that reaches to _MARGIN."""
    at = (torch.arange(_ATLAS, device=device) + 0.5) / _ATLAS * 2 * _MARGIN - _MARGIN
    x, y = at[None, :], at[:, None]
    arm = torch.minimum(x.abs(), y.abs())
    insides = (
        1 - (x.square() + y.square()).sqrt(),
        0.85 - torch.maximum(x.abs(), y.abs()),
        torch.minimum(0.9 - y, (y + 1 - 2 * x.abs()) / 5**0.5),
        torch.minimum(0.95 - torch.maximum(x.abs(), y.abs()), 0.32 - arm),
    )
    shapes = torch.stack([(0.5 + inside * _ATLAS / (2 * _MARGIN)).clamp(0, 1) for inside in insides])  # edges of one pixel
    bits = torch.tensor([[[float(bit) for bit in row] for row in glyph.split()] for glyph in _GLYPHS], device=device)
    high, wide = round(_ATLAS / _MARGIN), round(_ATLAS / _MARGIN * 5 / 7)
    large = F.interpolate(bits[:, None], [high, wide], mode="nearest")
    left, top = (_ATLAS - wide) // 2, (_ATLAS - high) // 2
    digits = F.pad(large, (left, _ATLAS - wide - left, top, _ATLAS - high - top))
    return torch.cat([shapes[:, None], digits])
