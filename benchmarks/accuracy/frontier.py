"""Quality against time: the points that no other one beats, and the picture of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsecc.files import replacing

_COLOURS = {"sparsecc": "tab:blue", "onnxruntime": "tab:orange", "openvino": "tab:green"}
_SHAPES = {"float32": "o", "int8": "D"}
_LINE = 11  # points of 1/72 inch between two lines of labels
_LETTER = 4.6
_GAP = 8  # from a point to its text


@dataclass(frozen=True)
class Point:
    """time: over the baseline's.  engine, dtype: its colour and its shape in the picture."""

    label: str
    engine: str
    dtype: str
    time: float
    quality: float


@dataclass(frozen=True)
class Axis:
    """Of quality. style: the format of a figure.  shown: the worst that has a place of its own; what is worse stands at the edge."""

    name: str
    style: str
    lower_is_better: bool
    shown: float

    def loss(self, quality: float) -> float:
        return quality if self.lower_is_better else -quality


def frontier(points: Sequence[Point], axis: Axis) -> list[Point]:
    """The points than which no other is faster and as good, or better and as fast; the fastest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.time, axis.loss(p.quality))):
        if not found or axis.loss(point.quality) < axis.loss(found[-1].quality):
            found.append(point)
    return found


def draw(path: Path, title: str, points: Sequence[Point], axis: Axis) -> None:
    """Write a PNG: time logarithmic, better is up and to the left."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    best = min((p.quality for p in points), key=axis.loss)
    edge = axis.shown + 0.03 * (best - axis.shown)
    inside = [p for p in points if axis.loss(p.quality) <= axis.loss(axis.shown)]
    places = [(p.time, p.quality if p in inside else edge) for p in points]
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    ax = figure.subplots()
    line = frontier(inside, axis)
    ax.plot([p.time for p in line], [p.quality for p in line], color="0.75", zorder=1, label="frontier")
    for engine, colour in _COLOURS.items():
        for dtype, shape in _SHAPES.items():
            found = [place for p, place in zip(points, places, strict=True) if (p.engine, p.dtype) == (engine, dtype)]
            ax.scatter(*zip(*found, strict=True), s=42, c=colour, marker=shape, label=f"{engine} {dtype}", zorder=2) if found else None
    ax.set_xscale("log")
    ax.set_xlim(min(p.time for p in points) / 1.12, 1.8 * max(p.time for p in points))
    ax.set_ylim(axis.shown, best + 0.14 * (best - axis.shown))
    ax.xaxis.set_major_locator(FixedLocator([0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 5]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: format(y, axis.style)))
    ax.set(xlabel="time over that of onnxruntime float32", ylabel=axis.name, title=title)
    ax.grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize=8)
    texts = [p.label if p in inside else f"{p.label}: {format(p.quality, axis.style)}" for p in points]
    figure.draw_without_rendering()  # places the axes, which the labels are placed by
    _label(ax, texts, places)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _label(ax: Any, texts: Sequence[str], places: Sequence[tuple[float, float]]) -> None:
    """Each text to the right of its point, moved up or down to where it covers no point and no other text."""
    scale = 72 / ax.figure.dpi
    spots = [tuple(scale * ax.transData.transform(place)) for place in places]
    for text, place, spot, y in zip(texts, places, spots, apart(spots, [_LETTER * len(text) for text in texts]), strict=True):
        moved = y - spot[1]
        arrow = {"arrowstyle": "-", "color": "0.7", "lw": 0.6, "shrinkA": 0, "shrinkB": 3} if abs(moved) > 1 else None
        ax.annotate(
            text, place, (_GAP, moved), textcoords="offset points", fontsize=8, va="center", arrowprops=arrow, annotation_clip=False
        )


def apart(spots: Sequence[tuple[float, float]], widths: Sequence[float]) -> list[float]:
    """The height of the text beside each spot: the nearest at which it is _LINE away from the spots and from the texts above."""
    placed = [(x - _GAP / 2, x + _GAP / 2, y) for x, y in spots]
    heights = [0.0] * len(spots)
    for i in sorted(range(len(spots)), key=lambda i: (-spots[i][1], spots[i][0])):
        left, right, y = spots[i][0] + _GAP, spots[i][0] + _GAP + widths[i], spots[i][1]
        beside = [h for start, end, h in placed if left < end and start < right]
        tried = [y, *(h + step for h in beside for step in (_LINE, -_LINE))]
        heights[i] = min((h for h in tried if all(abs(h - other) >= _LINE for other in beside)), key=lambda h: abs(h - y))
        placed.append((left, right, heights[i]))
    return heights
