"""Pictures of maps that a recipe has made block-sparse."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sparsecc.api import account
from sparsecc.api.maps import _file_name, draw
from sparsecc.api.rewriting import Rewritten, rewrite
from sparsecc.errors import UserError
from sparsecc.recipe import Recipe
from tests.passes.attending import BLOCK, GRID, graph, image

PARO = {"reorder_tokens": {"grid": list(GRID), "block": BLOCK, "density": 0.3, "targets": ["b"]}}
WINDOW = {"reorder_tokens": {"pattern": "sliding_window:12", "block": BLOCK}}
PRUNE = {"prune": {"sparsity": 0.5, "min_weights": 0}}


@cache
def rewritten(name: str, calibrated: bool = True) -> Rewritten:
    recipe: dict[str, Any] = {"passes": [{"paro": PARO, "window": WINDOW, "prune": PRUNE}[name]]}
    return rewrite(graph("fx"), Recipe.load(recipe), [(image(1),)] if calibrated else None, None, "m")  # type: ignore[list-item]


def test_a_picture_for_each_attention_that_is_sparse_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = rewritten("paro")
    monkeypatch.setattr("sparsecc.api.maps.HEADS", 1)
    written = draw(result, account.report(result, "none"), tmp_path / "new" / "maps")
    assert [path.name for path in written] == ["000-b-heads-0-0.png", "000-b-heads-1-1.png"]
    assert sorted((tmp_path / "new" / "maps").iterdir()) == written
    first, second = (path.read_bytes() for path in written)
    assert first.startswith(b"\x89PNG") and first != second


@pytest.mark.parametrize(
    ("name", "calibrated", "message"),
    [
        ("prune", True, "the recipe makes no attention block-sparse"),
        ("window", False, "are drawn from what enters attention on a calibration input"),
    ],
)
def test_where_there_is_nothing_to_draw(name: str, calibrated: bool, message: str, tmp_path: Path) -> None:
    result = rewritten(name, calibrated)
    with pytest.raises(UserError, match=message):
        draw(result, account.report(result, "none"), tmp_path / "maps")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be a folder for pictures"):
        draw(rewritten("paro"), account.report(rewritten("paro"), "none"), tmp_path / "file")


def test_names_of_a_model_cannot_leave_the_folder() -> None:
    assert _file_name("/blocks/0/attn/MatMul") == "blocks_0_attn_MatMul"
    assert _file_name("../../etc/x") == "etc_x"
    assert _file_name("..") == "attention"
    assert len(_file_name("a" * 500)) == 80
