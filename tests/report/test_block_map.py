from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from sparsecc.errors import UserError
from sparsecc.report.block_map import picture

MASS = np.random.default_rng(0).random((20, 20))


def test_a_png_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name, MASS, MASS.T, MASS.T > 0.7, title="attn, head 3", order="HWF")
    written = (tmp_path / "a.png").read_bytes()
    assert written.startswith(b"\x89PNG")
    assert written == (tmp_path / "b.png").read_bytes()
    picture(tmp_path / "c.png", MASS, MASS.T, MASS.T > 0.2)
    assert written != (tmp_path / "c.png").read_bytes()


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        picture(tmp_path / "a.png", MASS, MASS, MASS > 0)
    assert not list(tmp_path.iterdir())
