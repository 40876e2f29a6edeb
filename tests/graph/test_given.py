from __future__ import annotations

import pytest

from sparsecc.errors import InputError
from sparsecc.graph.given import in_order
from tests.api.test_sources import SPECS, sample


def test_nested_inputs_are_taken_apart():
    x, ids = sample()
    for given in (([x, ids], True), ({"a": x, "b": [ids, None]},), {"xs": {"a": x}, "ids_by_name": [ids]}, {"x": x, "ids": ids, "flag": 3}):
        assert all(a is b for a, b in zip(in_order(SPECS, given), [x, ids], strict=True))
    with pytest.raises(InputError, match="input 'x' is a list"):
        in_order(SPECS, {"x": [1.0], "ids": ids})
