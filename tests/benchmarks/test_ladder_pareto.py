"""At each cosine the fastest found stands against the fastest with one pattern."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.ladder import pareto


def row(name: str, ms: float, quality: float) -> dict[str, Any]:
    seconds = [ms / 1e3 * slow for slow in (1.0, 1.5, 1.0)]  # the machine is slower in the second round, for all of them
    return {"name": name, "ms": {"median": ms}, "quality": quality, "samples_s": seconds}


def document(*found: tuple[float, float]) -> dict[str, Any]:
    singles = [("dense", 16.0, 1.0), ("int8 dense", 5.0, 0.997), ("int8 1x4 50%", 4.0, 0.932)]
    rows = [row("openvino int8 f32", 1.0, 0.993), *(row(f"sparsecc {name}", ms, quality) for name, ms, quality in singles)]
    rows += [row(f"sparsecc found {i}", ms, quality) for i, (ms, quality) in enumerate(found, 1)]
    return {"machine": {}, "threads": 2, "minutes": 30, "seed": 0, "samples": 8, "held_out": 9, "rows": rows}


def test_all_is_reached() -> None:
    found = pareto.judged(document((4.0, 0.99), (5.0, 0.997), (3.9, 0.94)))
    times = {level["cosine"]: level["times"] for level in found["levels"]}
    assert times[0.93] == pytest.approx(4 / 3.9) and times[0.95] == pytest.approx(5 / 4) and times[0.995] == pytest.approx(1)
    assert found["int8"] == pytest.approx(1.25) and found["outcome"]["reached"]
    assert found["outcome"]["measured"] == "1.00 to 1.28 times the best with one pattern; at 0.99 1.25 times our dense int8"
    table = pareto.markdown(found).splitlines()
    assert table[-1] == "| 0.995 | found 2 (0.9970) | 5.00 | int8 dense (0.9970) | 5.00 | 1.00 |" and "Reached" in table[0]


@pytest.mark.parametrize(
    "found",
    [
        ((4.0, 0.99), (5.2, 0.997)),  # slower at 0.995
        ((4.0, 0.99),),  # nothing at 0.995
        ((4.5, 0.99), (5.0, 0.997), (3.0, 0.94)),  # less than 1.25 times int8
        ((4.9, 0.99), (5.0, 0.997), (4.0, 0.94)),
    ],
)
def test_something_is_missed(found: tuple[tuple[float, float], ...]) -> None:
    assert not pareto.judged(document(*found))["outcome"]["reached"]


def test_a_cosine_that_no_single_pattern_has_is_no_level() -> None:
    given = document((4.0, 0.99), (5.0, 0.997))
    given["rows"] = [one for one in given["rows"] if one["name"] != "sparsecc dense"]
    assert pareto.judged(given)["levels"][-1]["times"] == pytest.approx(1)
    given["rows"] = [one | {"quality": 0.98} if one["name"] == "sparsecc int8 dense" else one for one in given["rows"]]
    level = pareto.judged(given)["levels"][-1]
    assert level["single"] is None and level["times"] is None
