from __future__ import annotations

import pytest

from sparsecc import allocations, registry
from sparsecc.errors import RecipeError


def test_every_member_is_made_by_its_name() -> None:
    for name in registry.members("allocations"):
        assert type(allocations.create(name)).__module__.rsplit(".", 1)[-1].rstrip("_") == name


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean"):
        allocations.create({"criteria": "magnitud", "allocations": "unifrom"}["allocations"])
