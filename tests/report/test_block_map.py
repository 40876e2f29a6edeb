from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from sparsecc.errors import UserError
from sparsecc.report.block_map import MOST, HeadMap, _coarse, picture

MASS = np.random.default_rng(0).random((20, 20))


def test_a_png_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        heads = [HeadMap(MASS, MASS.T, MASS.T > 0.7, order="HWF", title="head 3"), HeadMap(MASS, MASS, MASS > 0.1)]
        picture(tmp_path / name, heads, title="attn")
    written = (tmp_path / "a.png").read_bytes()
    assert written.startswith(b"\x89PNG")
    assert written == (tmp_path / "b.png").read_bytes()
    picture(tmp_path / "c.png", [HeadMap(MASS, MASS.T, MASS.T > 0.2)])
    assert written != (tmp_path / "c.png").read_bytes()


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        picture(tmp_path / "a.png", [HeadMap(MASS, MASS, MASS > 0)])
    assert not list(tmp_path.iterdir())


def test_large_maps_are_added_up_to_what_a_picture_can_show() -> None:
    large = np.random.default_rng(1).random((300, 300))
    small = _coarse(large)
    assert small.shape == (100, 100) and max(small.shape) <= MOST
    assert small[1, 2] == pytest.approx(large[3:6, 6:9].sum())
    assert small.sum() == pytest.approx(large.sum())
    assert np.array_equal(_coarse(MASS), MASS)
