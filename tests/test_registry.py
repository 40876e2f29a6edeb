from __future__ import annotations

import pytest

from sparsecc import registry
from sparsecc.errors import RecipeError
from sparsecc.passes.base import Pass


def test_members_are_the_files_of_a_folder() -> None:
    assert registry.members("formats") == ["block", "csr", "nm"]
    assert "global" in registry.members("allocations")  # global_.py
    assert {"prune", "pack"} <= set(registry.members("passes"))
    assert "pipeline" not in registry.members("passes")  # in HELPERS


def test_load_offers_the_nearest_name_or_all() -> None:
    with pytest.raises(RecipeError, match="did you mean 'block'"):
        registry.load("formats", "blok")
    with pytest.raises(RecipeError, match="there are: block, csr, nm"):
        registry.load("formats", "zzz")
    with pytest.raises(RecipeError, match=r"^criterion: no 'magnitud'; did you mean 'magnitude'"):
        registry.require("criterion", "criteria", "magnitud")


def test_a_member_defines_one_class() -> None:
    assert registry.load_class("passes", "prune", Pass).__name__ == "Prune"  # type: ignore[type-abstract]
    with pytest.raises(TypeError, match="exactly one"):
        registry.load_class("formats", "csr", Pass)  # type: ignore[type-abstract]


def test_a_long_list_is_cut() -> None:
    assert registry.did_you_mean("zzz", [f"layer{number}" for number in range(200)]).startswith("; there are 200: layer0, layer1, ")
    assert len(registry.did_you_mean("zzz", [f"layer{number}" for number in range(200)])) < 120
