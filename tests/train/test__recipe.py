from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparsecc.errors import RecipeError
from sparsecc.train._recipe import read
from sparsecc.train.gmp import Gmp
from sparsecc.train.set_ import Set

GMP = {"method": "gmp", "steps": 100}


def test_a_mapping_a_file_and_a_method() -> None:
    method = Set(targets=("re:encoder.*",), sparsity=0.8, steps=10)
    assert read(method) is method
    assert read({"method": "set", "targets": ["re:encoder.*"], "sparsity": 0.8, "steps": 10}) == method


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("{method: gmp, pattern: 2:4, steps: 100}")
    assert read(path) == Gmp(pattern="2:4", steps=100)
    path.write_text("{method: gmp, steps: 100, evry: 3}")
    with pytest.raises(RecipeError, match=r"t\.yaml\.evry: no such field; did you mean 'every'\?"):
        read(str(path))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({}, "recipe.method: missing; there are: cast, gmp, granet, rigl, set, sr_ste, srigl"),
        ({"method": "rigel"}, "recipe.method: no 'rigel'; did you mean 'rigl'?"),
        ({"method": ["gmp"]}, r"recipe.method: no ['gmp']"),
        ({"method": "gmp"}, "recipe.steps: missing"),
        ({**GMP, "sparsty": 0.5}, "recipe.sparsty: no such field; did you mean 'sparsity'?"),
        ({**GMP, "share": 0.5}, "recipe.share: no such field"),
        ({**GMP, "sparsity": 1.0}, "recipe.sparsity: 1.0 is not in [0, 1)"),
        ({**GMP, "pattern": "4:2"}, "recipe.pattern: '4:2' cannot be"),
        ({**GMP, "pattern": "2:4", "sparsity": 0.7}, "recipe.sparsity: pattern 2:4 has 0.5, not 0.7"),
        ({**GMP, "allocation": "erkk"}, "recipe.allocation: no 'erkk'; did you mean 'erk'?"),
        ({**GMP, "targets": "re:x"}, "recipe.targets: expected a list, as ['re:x'], not text"),
        ({**GMP, "targets": ["re:("]}, "recipe.targets: 're:(' is no regular expression"),
        ({**GMP, "steps": 10.5}, "recipe.steps: expected"),
        ("nowhere.yaml", "nowhere.yaml: no such recipe file"),
        (3, "recipe: expected a path, a mapping or a method of training, not a number"),
    ],
)
def test_mistakes_are_placed_and_explained(recipe: Any, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        read(recipe)
    assert str(raised.value).startswith(message)


def test_a_file_that_holds_no_mapping(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("[1, 2]")
    with pytest.raises(RecipeError, match="expected a mapping with the key 'method', not a list"):
        read(path)
