"""What the accuracy benchmark measures, on made-up vectors, and what it asks for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.accuracy import minilm as bench
from benchmarks.accuracy.minilm import ROWS, Row, compared
from sparsecc.recipe import Recipe
from sparsecc.registry import members


def unit(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def test_the_same_vectors_are_the_same() -> None:
    vectors = unit(torch.randn(9, 5))
    quality = compared(vectors, vectors)
    assert (quality.cosine, quality.spearman, quality.nearest) == (pytest.approx(1), pytest.approx(1), 1.0)


def test_each_figure_by_hand() -> None:
    """Three sentences; the second one turns away from the first, towards the third."""
    dense = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    turned = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    quality = compared(turned, dense)
    assert quality.cosine == pytest.approx((1 + 0.96 + 1) / 3)
    assert quality.spearman == pytest.approx(0.5)  # similarities 0.8, 0, 0.6 became 0.6, 0, 0.8
    assert quality.nearest == pytest.approx(2 / 3)


def test_every_row_is_a_recipe_with_a_name_of_its_own() -> None:
    for row in ROWS:
        assert Recipe.load({"passes": row.passes(steps=5)}).passes
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {row.at_least for row in ROWS if row.at_least} == {0.93, 0.985, 0.87, 0.975, 0.8, 0.965, 0.78, 0.95, 0.96, 0.995}


def test_every_criterion_has_its_rows() -> None:
    rows = bench.criteria_rows()
    for row in rows:
        assert Recipe.load({"passes": row.passes()}).passes
    assert len({row.name for row in rows}) == len(rows)
    assert {(row.criterion, row.pattern) for row in rows} >= {
        (name, p) for name in members("criteria") for p in ("unstructured", "2:4", "4x1")
    }


def test_rows_that_are_measured_again_take_their_places() -> None:
    def document(**cosines: float) -> dict[str, Any]:
        settings = {"machine": {}, "samples": 1, "held_out": 1, "steps": None, "made": {}}
        return {**settings, "rows": [{"name": name, "cosine": cosine} for name, cosine in cosines.items()]}

    assert bench.renewed(document(a=0.1, b=0.2, c=0.3), document(b=0.5)) == document(a=0.1, b=0.5, c=0.3)
    with pytest.raises(SystemExit, match="no row d"):
        bench.renewed(document(a=0.1), document(d=0.5))
    with pytest.raises(SystemExit, match="differ in samples"):
        bench.renewed(document(a=0.1) | {"samples": 2}, document(a=0.5))


def test_rows_by_name() -> None:
    assert bench._row("2:4,0.5,wanda") == Row("2:4", 0.5, "wanda")
    assert bench._row("4x1,0.5,sparsegpt,recovery,int8") == Row("4x1", 0.5, method="recovery", int8=True)
    assert bench._row("int8") == Row(None, int8=True)
    refined = bench._row("2:4,0.5,wanda+dsnot")
    assert refined == Row("2:4", 0.5, "wanda", refinement="dsnot")
    assert refined.name == "2:4 by wanda, dsnot"
    assert Recipe.load({"passes": refined.passes(steps=5)}).passes
