"""Pictures of maps that a recipe has made block-sparse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sparsecc
from sparsecc.api.maps import _file_name
from sparsecc.errors import UserError
from tests.passes.attending import BLOCK, GRID, Attending, image

RECIPE = {"passes": [{"reorder_tokens": {"grid": list(GRID), "block": BLOCK, "density": 0.3, "targets": ["re:.*"]}}]}


def explained(recipe: Any, maps: Path, calibration: Any = ((image(1),),)) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sparsecc.explain(Attending().eval(), (image(0),), recipe=recipe, calibration=calibration, maps=maps)


def test_a_picture_for_each_attention_the_same_every_time(tmp_path: Path) -> None:
    text = explained(RECIPE, tmp_path / "first" / "maps")
    explained(RECIPE, tmp_path / "second")
    first, second = (sorted(folder.iterdir()) for folder in (tmp_path / "first" / "maps", tmp_path / "second"))
    assert [path.name for path in first] == ["000-a-heads-0-1.png", "001-b-heads-0-1.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes().startswith(b"\x89PNG") and first[0].read_bytes() != first[1].read_bytes()
    assert "head  order  density  lost mass    error" in text


def test_where_there_is_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the recipe makes no attention block-sparse"):
        explained({"passes": [{"prune": {"sparsity": 0.5, "min_weights": 0}}]}, tmp_path / "maps")
    window = {"passes": [{"reorder_tokens": {"pattern": "sliding_window:12", "block": BLOCK}}]}
    with pytest.raises(UserError, match="are drawn from what enters attention on a calibration input"):
        explained(window, tmp_path / "maps", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be a folder for pictures"):
        explained(RECIPE, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_names_of_a_model_cannot_leave_the_folder() -> None:
    assert _file_name("/blocks/0/attn/MatMul") == "blocks_0_attn_MatMul"
    assert _file_name("../../etc/x") == "etc_x"
    assert _file_name("..") == "attention"
    assert len(_file_name("a" * 500)) == 80
