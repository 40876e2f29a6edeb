from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparsecc.errors import RecipeError
from sparsecc.passes.pack import Pack
from sparsecc.passes.prune import Prune
from sparsecc.recipe import Recipe

YAML = """
passes:
  - prune: {targets: ["re:.*encoder.*"], ignore: [head], criterion: random, pattern: "4x1", sparsity: 0.7, allocation: erk, floor: 0.1}
  - pack: {}
"""
RECIPE = Recipe(
    (
        Prune(targets=("re:.*encoder.*",), ignore=("head",), criterion="random", pattern="4x1", sparsity=0.7, allocation="erk", floor=0.1),
        Pack(),
    )
)


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "r.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_from_a_file_a_mapping_and_objects(tmp_path: Path) -> None:
    assert Recipe.load(write(tmp_path, YAML)) == RECIPE
    assert Recipe.load(str(write(tmp_path, YAML))) == RECIPE
    assert Recipe.load(RECIPE) is RECIPE
    assert Recipe.load({"passes": list(RECIPE.passes)}) == RECIPE
    assert Recipe.load(RECIPE.to_dict()) == RECIPE


def test_budgets_are_numbers_or_text_with_a_unit(tmp_path: Path) -> None:
    for written, budget in (("20e6", 20e6), ("5000000", 5_000_000), ("20MB", "20MB")):
        recipe = Recipe.load(write(tmp_path, f"passes: [prune: {{budget: {{bytes: {written}}}}}]"))
        assert recipe == Recipe((Prune(budget={"bytes": budget}),))
        assert Recipe.load(recipe.to_dict()) == recipe
    with pytest.raises(RecipeError, match=r"passes\[0\].prune.budget: no 'byte'; did you mean 'bytes'"):
        Recipe.load({"passes": [{"prune": {"budget": {"byte": 1}}}]})
    with pytest.raises(RecipeError, match=r"passes\[0\].prune.budget: expected "):
        Recipe.load({"passes": [{"prune": {"budget": 20e6}}]})


def test_without_one_the_zeros_that_are_there_are_packed() -> None:
    assert Recipe.load(None) == Recipe((Pack(),))


def test_no_passes_is_a_recipe_too() -> None:
    assert Recipe.load({"passes": []}) == Recipe()


@pytest.mark.parametrize("pack", ["- pack", "- pack:", "- pack: {}"])
def test_ways_to_write_a_pass_without_fields(tmp_path: Path, pack: str) -> None:
    assert Recipe.load(write(tmp_path, f"passes:\n  {pack}\n")) == Recipe((Pack(),))


def test_numbers_are_read_as_yaml_1_2_does(tmp_path: Path) -> None:
    """PyYAML by itself reads 2:4 as 124 and 5e-1 as text."""
    assert Recipe.load(write(tmp_path, "passes: [prune: {pattern: 2:4}]")) == Recipe((Prune(pattern="2:4"),))
    assert Recipe.load(write(tmp_path, "passes: [prune: {sparsity: 5e-1}]")) == Recipe((Prune(sparsity=0.5),))
    assert Recipe.load(write(tmp_path, "passes: [prune: {sparsity: 0, min_weights: 10}]")) == Recipe((Prune(sparsity=0, min_weights=10),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "recipe: 'passes' has to be a list, not nothing"),
        ({"pass": []}, "recipe: no such key 'pass'; did you mean 'passes'?"),
        ({"passes": {}}, "recipe: 'passes' has to be a list, not an empty mapping"),
        ({"passes": [{"prun": {}}]}, "recipe: passes[0]: no pass 'prun'; did you mean 'prune'?"),
        ({"passes": ["pack", {"pipeline": {}}]}, "recipe: passes[1]: no pass 'pipeline'; there are: "),
        ({"passes": [{"pack": {}, "prune": {}}]}, "recipe: passes[0]: expected one pass with its fields, as 'pack: {}', not a map"),
        ({"passes": [3]}, "recipe: passes[0]: expected one pass"),
        ({"passes": [{"pack": 3}]}, "recipe: passes[0].pack: expected a mapping of fields, not a number"),
        ({"passes": [{"prune": {"sparsty": 0.5}}]}, "recipe: passes[0].prune.sparsty: no such field; did you mean 'sparsity'?"),
        ({"passes": [{"prune": {"sparsity": 1.5}}]}, "recipe: passes[0].prune.sparsity: 1.5 is not in [0, 1)"),
        ({"passes": [{"prune": {"sparsity": "0.5"}}]}, "recipe: passes[0].prune.sparsity: expected a number, not '0.5'"),
        ({"passes": [{"prune": {"sparsity": True}}]}, "recipe: passes[0].prune.sparsity: expected a number, not True"),
        ({"passes": [{"prune": {"sparsity": float("nan")}}]}, "recipe: passes[0].prune.sparsity: expected a finite number, not nan"),
        ({"passes": [{"prune": {"pattern": "3:2"}}]}, "recipe: passes[0].prune.pattern: '3:2' cannot be"),
        ({"passes": [{"prune": {"pattern": 124}}]}, "recipe: passes[0].prune.pattern: expected a string, not 124"),
        ({"passes": [{"prune": {"targets": "re:x"}}]}, "recipe: passes[0].prune.targets: expected a list, as ['re:x'], not text"),
        ({"passes": [{"prune": {"targets": [3]}}]}, "recipe: passes[0].prune.targets: expected a string, not 3"),
        ({"passes": [{"prune": {"criterion": "magnitud"}}]}, "recipe: passes[0].prune.criterion: no 'magnitud'; did you mean 'magnitude'?"),
        ({"passes": [{"pack": {"formats": ["cs"]}}]}, "recipe: passes[0].pack.formats: no 'cs'; did you mean 'csr'?"),
        ({1: 2}, "recipe: no such key 1"),
        (5, "recipe: expected a path, a mapping or a Recipe, not a number"),
    ],
)
def test_mistakes_are_placed_and_explained(content: Any, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        Recipe.load(content)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": ["re:a{99999999999999999999}"]}, "targets: 're:a{9+}' is no regular expression: the repetition number is too large"),
        ({"ignore": ["re:" + "(" * 5000 + ")" * 5000]}, r"ignore: 're:\(+\.\.\. is no regular expression: nested too deeply"),
        ({"pattern": "9" * 5000 + "x1"}, r"pattern: '9+\.\.\. is none of"),
        ({"pattern": "1:" + "9" * 5000}, r"pattern: '1:9+\.\.\. is none of"),
    ],
)
def test_values_of_thousands_of_characters(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"^recipe: passes\[0\]\.prune\.{message}") as raised:
        Recipe.load({"passes": [{"prune": fields}]})
    assert len(str(raised.value)) < 300


def test_strict_is_read_and_written(tmp_path: Path) -> None:
    recipe = Recipe.load(write(tmp_path, "strict: true\npasses: [pack]\n"))
    assert recipe == Recipe((Pack(),), strict=True)
    assert Recipe.load(recipe.to_dict()) == recipe
    with pytest.raises(RecipeError, match="recipe: 'strict' has to be true or false, not text"):
        Recipe.load({"passes": [], "strict": "yes"})
