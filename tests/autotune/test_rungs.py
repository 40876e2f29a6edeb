from __future__ import annotations

import pytest

from sparsecc.api.units import Group
from sparsecc.autotune.rungs import DENSE, Rung, everywhere, ladder, recipe
from sparsecc.errors import UserError
from sparsecc.recipe import Recipe

NAMES = [
    "dense",
    "int8",
    "bfloat16",
    "2:4",
    "int8 2:4",
    "4x1 70%",
    "unstructured 62.5%",
    "int8 1x4 50%",
    "low_rank 25%",
    "monarch 12.5%",
    "narrow 25%",
    "int8 narrow 12.5%",
    "bfloat16 narrow 50%",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_back(name: str) -> None:
    assert str(Rung.parse(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "int7",
        "int8 int8",
        "4x1",
        "2:4 50%",
        "50%",
        "int8 50%",
        "4x1 100%",
        "low_rank",
        "int8 low_rank 25%",
        "4x1 70",
        "narrow",
        "narrow 0%",
        "int8 narrow 100%",
        "int7 narrow 25%",
        "narrow int8 25%",
    ],
)
def test_no_rung(name: str) -> None:
    with pytest.raises(UserError, match="is none"):
        Rung.parse(name)


def test_a_ladder_has_what_the_cpu_multiplies() -> None:
    assert {rung.dtype for rung in ladder(["int8", "bfloat16"])} == {"float32", "int8", "bfloat16"}
    assert {rung.dtype for rung in ladder([])} == {"float32"}
    shares = {dtype: [one.narrow for one in ladder(["int8"]) if one.narrow and one.dtype == dtype] for dtype in ("int8", "float32")}
    assert shares == {"int8": [0.125, 0.25, 0.375, 0.5], "float32": [0.25, 0.5]}
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


GROUPS = {
    "mlp": Group("mlp", "neurons", ("a", "b"), 64),
    "attention": Group("attention", "heads", ("q", "k", "v", "o"), 4),
    "other": Group("other", "neurons", ("c", "d"), 64),
}


def test_what_becomes_narrower_goes_first_each_kind_and_share_in_one_step() -> None:
    quarter, half = Rung("int8", narrow=0.25), Rung(narrow=0.5)
    assignment = {"a": quarter, "b": Rung(narrow=0.25), "c": quarter, "d": quarter, "e": Rung("int8", "1x4", 0.5)} | dict.fromkeys(
        "qkvo", half
    )
    found = recipe(assignment, prune={"criterion": "alps"}, structured={"criterion": "obs"}, groups=GROUPS)
    assert found["passes"] == [
        {"structured": {"targets": ["mlp", "other"], "neurons": 0.25, "round_to": 16, "criterion": "obs"}},
        {"structured": {"targets": ["attention"], "heads": 0.5, "criterion": "obs"}},
        {"prune": {"targets": ["e"], "pattern": "1x4", "sparsity": 0.5, "criterion": "alps"}},
        {"quantize": {"targets": ["a", "c", "d", "e"], "dtype": "int8"}},
        {"pack": {"targets": ["e"]}},
    ]
    Recipe.load(found)


def test_a_part_of_a_group_alone() -> None:
    for assignment in ({"a": Rung(narrow=0.25)}, {"a": Rung(narrow=0.25), "b": Rung(narrow=0.5)}, {"a": Rung(narrow=0.25), "b": DENSE}):
        with pytest.raises(UserError, match="'mlp': its layers a, b become narrower by the same share, or not at all"):
            recipe(assignment, groups=GROUPS)
    with pytest.raises(UserError, match="layer 'e': belongs to no neurons or heads"):
        recipe({"e": Rung(narrow=0.25)}, groups=GROUPS)


def test_levels_of_one_family() -> None:
    assert Rung("int8", narrow=0.25).family == Rung("int8", narrow=0.5).family != Rung("int8").family
    assert Rung("int8", narrow=0.25).at(0.5) == Rung("int8", narrow=0.5) and Rung("int8", narrow=0.25).level == 0.25
    assert everywhere(Rung("int8", narrow=0.25)) == {
        "passes": [{"structured": {"neurons": 0.25, "round_to": 16, "heads": 0.25}}, {"quantize": {"dtype": "int8"}}]
    }
