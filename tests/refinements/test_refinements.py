from __future__ import annotations

import pytest

from sparsecc import refinements, registry
from sparsecc.errors import RecipeError


def test_every_member_is_made_by_its_name() -> None:
    for name in registry.members("refinements"):
        assert type(refinements.create(name)).__module__.rsplit(".", 1)[-1] == name


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'dsnot'"):
        refinements.create("dsnt")
