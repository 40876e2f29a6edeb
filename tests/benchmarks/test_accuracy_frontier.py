"""Which points are on the frontier, where labels go, and that a picture is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy.frontier import Axis, Point, apart, draw, frontier

COSINE = Axis("mean cosine", ".2f", lower_is_better=False, shown=0.7)
ERROR = Axis("wrong characters", ".1%", lower_is_better=True, shown=0.2)


def points(*pairs: tuple[float, float]) -> list[Point]:
    return [Point(f"{time} {quality}", "sparsecc", "float32", time, quality) for time, quality in pairs]


def test_what_is_slower_and_worse_is_beaten() -> None:
    every = points((1.0, 0.99), (0.5, 0.9), (0.6, 0.8), (0.3, 0.9), (0.3, 0.7), (1.2, 0.99))
    assert [(p.time, p.quality) for p in frontier(every, COSINE)] == [(0.3, 0.9), (1.0, 0.99)]


def test_of_an_error_less_is_better() -> None:
    every = points((1.0, 0.02), (0.5, 0.03), (0.4, 0.02), (0.2, 0.5))
    assert [(p.time, p.quality) for p in frontier(every, ERROR)] == [(0.2, 0.5), (0.4, 0.02)]


def test_equal_points_are_there_once() -> None:
    assert len(frontier(points((1.0, 0.9), (1.0, 0.9)), COSINE)) == 1
    assert frontier([], COSINE) == []


def test_labels_cover_neither_points_nor_each_other() -> None:
    spots = [(100.0, 50.0), (120.0, 50.0), (124.0, 48.0), (300.0, 50.0)]
    heights = apart(spots, [60.0] * len(spots))
    assert heights[3] == 50.0  # nothing is near
    assert abs(heights[0] - 50.0) >= 11 and abs(heights[0] - 48.0) >= 11  # others stand to its right
    assert all(abs(a - b) >= 11 for i, a in enumerate(heights[:3]) for b in heights[:i])


@pytest.mark.parametrize("axis", [COSINE, ERROR], ids=lambda axis: axis.name)
def test_a_picture_is_written(tmp_path: Path, axis: Axis) -> None:
    every = points((1.0, 0.1), (0.5, 0.8), (0.2, 0.9))
    draw(tmp_path / "pareto.png", "a model", [*every, Point("int8", "openvino", "int8", 0.4, 0.75)], axis)
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
