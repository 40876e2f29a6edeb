from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from sparsecc.errors import UserError
from sparsecc.report.curves import picture
from tests.report.test_sensitivity import REPORT, SITES


def test_a_png_the_same_every_time(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of labels and glyphs that are left out
        data = picture(REPORT)
    assert data.startswith(b"\x89PNG")
    assert data == picture(REPORT)
    assert data != picture(replace(REPORT, sites=SITES[:1]))
    REPORT.plot(tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes() == data


def test_without_curves_there_is_no_picture() -> None:
    with pytest.raises(UserError, match="every layer was skipped"):
        picture(replace(REPORT, sites=()))


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        REPORT.plot(tmp_path / "s.png")
    assert not list(tmp_path.iterdir())
