"""structures/__init__.py: keys, and candidates for a budget."""

from __future__ import annotations

import pytest

from sparsecc import registry, structures
from sparsecc.errors import RecipeError
from sparsecc.structures.low_rank import LowRank
from sparsecc.structures.monarch import Monarch

KEYS = {"low_rank:64": LowRank(64), "monarch:4x8:2": Monarch(4, 8, 2), "monarch:1x16:1": Monarch(1, 16)}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_reads_back(key: str) -> None:
    assert structures.from_key(key) == KEYS[key]
    assert KEYS[key].key == key


@pytest.mark.parametrize("key", ["low_rank", "low_rank:0", "low_rank:x", "monarch:4x8", "monarch:04x8:1", "monarch:4x0:1", "low_rank:1:2"])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(RecipeError, match=f"structure '{key}' is not one that sparsecc writes"):
        structures.from_key(key)


def test_an_unknown_structure_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no 'monarc'; did you mean 'monarch'"):
        structures.from_key("monarc:2x2:1")


def test_auto_means_a_list_of_members() -> None:
    found = {registry.name_of(structure) for structure in structures.sized("auto", 64, 48, 0.6)}
    assert found == set(structures.AUTO) < set(registry.members("structures"))
    assert structures.sized("low_rank", 64, 48, 0.5) == LowRank.sized(64, 48, 0.5)


def test_a_key_means_itself_where_it_fits() -> None:
    assert structures.sized("monarch:4x8:2", 64, 48, 0.5) == [Monarch(4, 8, 2)]
    assert structures.sized("monarch:4x8:2", 64, 50, 0.5) == structures.sized("monarch:4x8:2", 64, 48, 0.1) == []
