from __future__ import annotations

from functools import cache
from typing import Any

from benchmarks import paro
from sparsecc.attention.base import ORDER_NAMES, Grid

SMALL = Grid(4, 9, 11, text_tokens=3)


@cache
def rows() -> list[dict[str, Any]]:
    return paro.measure(SMALL, block=32)


def test_a_row_for_each_planted_order_and_density() -> None:
    assert [(row["planted"], row["density"]) for row in rows()] == [(name, d) for name in ORDER_NAMES for d in paro.DENSITIES]
    assert all(0 <= row["lost"] <= row["lost_raster"] + 1e-6 for row in rows() if row["planted"] == row["found"])


def test_what_has_to_hold() -> None:
    assert paro.holds(rows())
    assert not paro.holds([row | {"found": "FHW"} for row in rows()])
    assert not paro.holds([row | {"lost": 0.9 * row["lost_raster"]} for row in rows()])


def test_the_table_says_what_was_lost() -> None:
    assert "399 tokens: 4×9×11 and 3 text tokens before" in paro.table(rows(), SMALL)
    assert f"| WHF | WHF | 30% | {rows()[-2]['lost_raster']:.1%} |" in paro.table(rows(), SMALL)
