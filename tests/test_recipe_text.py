from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparsecc.errors import RecipeError
from sparsecc.recipe import Recipe
from sparsecc.recipe_text import read_text, write_text


def test_names_fields_and_lists() -> None:
    line = "prune{targets=['re:.*a,b', head], pattern=2:4,sparsity=0.5}  quantize{dtype=int8} pack"
    assert read_text(line) == {
        "passes": [
            {"prune": {"targets": ["re:.*a,b", "head"], "pattern": "2:4", "sparsity": 0.5}},
            {"quantize": {"dtype": "int8"}},
            {"pack": {}},
        ]
    }
    assert read_text(" ") == {"passes": []}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(-1e3, 1e3) | st.text("ab:x4.,'\"{}[]= -#&*!?|>%@`~", max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@example([{"pattern": ["'}"]}])
@example([{"pattern": "':"}])
@given(st.lists(st.dictionaries(st.sampled_from(["pattern", "targets", "sparsity"]), VALUES), max_size=3))
def test_what_is_written_is_read_back(options: list[dict]) -> None:
    steps = [{"prune": fields} for fields in options]
    assert read_text(write_text(steps)) == {"passes": steps}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("prune{sparsity 0.5}", "passes: prune: expected field=value, not 'sparsity 0.5'"),
        ("prune{sparsity=0.5", "passes: '{sparsity=0.5' is not closed"),
        ("prune{sparsity=0.5}pack", "passes: expected a space after prune, not 'pack'"),
        ("prune{sparsity=1,sparsity=2}", "passes: prune.sparsity: given twice"),
        ("prune{targets=['a}", "is not closed"),
        ("{prune}", "passes: expected the name of a pass at '{prune}'"),
        ("prune{targets=[a}", "is not closed"),
        ("p " * 6000, "more than 10000 characters"),
    ],
)
def test_what_is_no_pipeline(line: str, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        read_text(line)
    assert message in str(raised.value)


def test_a_recipe_and_its_line() -> None:
    line = "prune{pattern=4x1,sparsity=0.5} pack"
    recipe = Recipe.load(line)
    assert recipe.to_text() == line and Recipe.load(recipe.to_text()) == recipe
    assert Recipe.load("pack") == Recipe.load({"passes": ["pack"]})
    with pytest.raises(RecipeError, match=r"no pass 'prun'; did you mean 'prune'\?"):
        Recipe.load("prun{sparsity=0.5}")
    with pytest.raises(RecipeError, match=r"other\.yaml: no such recipe file"):
        Recipe.load("other.yaml")


def test_a_file_of_that_name_is_a_file(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pack").write_text("passes: []")
    assert Recipe.load("pack").passes == ()
