from __future__ import annotations

import pytest

from sparsecc.autotune.rungs import DENSE, Rung, everywhere, ladder, recipe
from sparsecc.errors import UserError
from sparsecc.recipe import Recipe

NAMES = ["dense", "int8", "bfloat16", "2:4", "int8 2:4", "4x1 70%", "unstructured 62.5%", "int8 1x4 50%", "low_rank 25%", "monarch 12.5%"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_back(name: str) -> None:
    assert str(Rung.parse(name)) == name


@pytest.mark.parametrize(
    "name", ["", "int7", "int8 int8", "4x1", "2:4 50%", "50%", "int8 50%", "4x1 100%", "low_rank", "int8 low_rank 25%", "4x1 70"]
)
def test_no_rung(name: str) -> None:
    with pytest.raises(UserError, match="is none"):
        Rung.parse(name)


def test_a_ladder_has_what_the_cpu_multiplies() -> None:
    assert {rung.dtype for rung in ladder(["int8", "bfloat16"])} == {"float32", "int8", "bfloat16"}
    assert {rung.dtype for rung in ladder([])} == {"float32"}
    for rung in ladder(["int8", "bfloat16"]):
        assert Rung.parse(str(rung)) == rung
        Recipe.load(everywhere(rung))


def test_layers_on_one_rung_are_named_together() -> None:
    blocks, sparse = Rung("int8", "1x4", 0.5), Rung(pattern="4x1", sparsity=0.7)
    found = recipe({"a": blocks, "b": sparse, "c": blocks, "d": Rung("int8"), "e": DENSE}, prune={"criterion": "alps"})
    assert found["passes"] == [
        {"prune": {"targets": ["a", "c"], "pattern": "1x4", "sparsity": 0.5, "criterion": "alps"}},
        {"prune": {"targets": ["b"], "pattern": "4x1", "sparsity": 0.7, "criterion": "alps"}},
        {"quantize": {"targets": ["a", "c", "d"], "dtype": "int8"}},
        {"pack": {"targets": ["a", "b", "c"]}},
    ]
    Recipe.load(found)


def test_what_repairs_stands_between_pruning_and_the_rest() -> None:
    found = recipe({"a": Rung("int8", "2:4"), "b": Rung(structure="low_rank", params=0.25)}, repair=[{"recover": {}}])
    assert [name for step in found["passes"] for name in step] == ["prune", "recover", "substitute", "quantize", "pack"]
    Recipe.load(found)


def test_nothing_to_do() -> None:
    assert recipe({"a": DENSE}) == {"passes": []}
