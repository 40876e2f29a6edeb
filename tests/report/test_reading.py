from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from sparsecc.report.base import Report, SiteReport
from tests.report.example import REPORT


def changed(place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """The example's JSON with another value at a place."""
    data = json.loads(REPORT.to_json())
    at = data
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return data


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("notes",), [1], r"notes\[0\]: 1 is not text"),
        (("notes",), "abc", "notes: 'abc' is not a list"),
        (("notes",), None, "notes: None is not a list"),
        (("sites",), {"a": 1}, r"sites: \{'a': 1\} is not a list"),
        (("sites", 0), [], r"sites\[0\]: SiteReport is no mapping"),
        (("sites", 1), {"shape": [1]}, r"sites\[1\]: SiteReport lacks the field 'name'"),
        (("sites", 0, "weight"), 1, r"sites\[0\]: SiteReport has no field 'weight'"),
        (("sites", 0, "name"), 5, r"sites\[0\]\.name: 5 is not text"),
        (("sites", 0, "refused"), [5], r"sites\[0\]\.refused\[0\]: 5 is not text"),
        (("sites", 0, "bytes_dense"), "x" * 100, r"sites\[0\]\.bytes_dense: 'x{39}\.\.\. is not a whole number"),
        (("sites", 0, "bytes_dense"), 0.5, "0.5 is not a whole number"),
        (("sites", 0, "bytes_dense"), True, "True is not a whole number"),
        (("sites", 0, "bytes_dense"), 10**400, "is beyond all that is counted"),
        (("sites", 0, "shape"), [2**62, 2**62], "has more elements than any tensor"),
        (("sites", 0, "measured_us"), "1", "'1' is not a number"),
        (("sites", 0, "decision"), "later", "'later' is not one of"),
        (("totals",), {"sites": 3}, "totals: lack 'bytes_dense'"),
        (("totals", "sites"), [], r"totals\.sites: \[\] is not a number"),
        (("check",), {}, "check: Check lacks the field 'max_abs'"),
        (("check", "cosine"), "", r"check\.cosine: '' is not a number"),
        (("measured", "samples"), 3, r"measured\.samples: 3 is not a mapping"),
    ],
)
def test_what_a_field_cannot_hold_is_refused_with_its_place(place: tuple[str | int, ...], value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Report.from_dict(changed(place, value))


def test_what_it_can_hold() -> None:
    assert Report.from_dict(changed(("sites", 0, "measured_us"), 3)).sites[0].measured_us == 3
    assert Report.from_dict(changed(("sites", 0, "measured_us"), None)).sites[0].measured_us is None
    assert Report.from_dict(changed(("check", "max_rel"), None)).check == dataclasses.replace(REPORT.check, max_rel=math.inf)  # type: ignore[type-var]
    bare = {"sparsecc": "1", "model": "m", "target": "cpu", "sites": [{"name": "a", "kind": "Linear", "shape": []}]}
    assert Report.from_dict(bare).sites == (SiteReport(name="a", kind="Linear", shape=()),)
