"""The generated pages are what the code says, and every member of every family stands in them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import pytest

from sparsecc import registry
from tools.reference import DOCS, ROOT, generated, results
from tools.reference.docstrings import described, described_class
from tools.reference.families import names
from tools.reference.fields import field_table, names_of, type_words
from tools.reference.passes import GUIDES

MEND = "run 'make reference' and commit what it changes"


@dataclass(frozen=True)
class Lacking:
    """a: described."""

    a: int = 0
    b: int = 0


@cache
def texts() -> dict[str, str]:
    return {str(path.relative_to(ROOT)): text for path, text in generated()}


def test_committed_pages_are_what_the_code_and_the_results_say() -> None:
    stale = [name for name, text in texts().items() if not (ROOT / name).exists() or (ROOT / name).read_text() != text]
    assert not stale, f"{', '.join(stale)}: {MEND}"


def test_families_are_found_by_their_base_classes() -> None:
    assert {
        "allocations",
        "attention",
        "autotune.metrics",
        "criteria",
        "formats",
        "precisions",
        "refinements",
        "structures",
        "train",
    } <= set(names())


def test_every_member_of_every_family_is_documented() -> None:
    families, passes = texts()["docs/reference/families.md"], texts()["docs/reference/recipe.md"]
    for family in names():
        missing = [name for name in registry.members(family) if f"### {family}: {name}\n" not in families]
        assert not missing, f"{family}: {', '.join(missing)} not in docs/reference/families.md; {MEND}"
    missing = [name for name in registry.members("passes") if f"## {name}\n" not in passes]
    assert not missing, f"passes: {', '.join(missing)} not in docs/reference/recipe.md; {MEND}"


def test_every_pass_has_a_guide() -> None:
    assert set(GUIDES) == set(registry.members("passes")), "name the page under docs/how-to that shows it, in tools/reference/passes.py"
    for guide in GUIDES.values():
        assert (DOCS / "how-to" / f"{guide}.md").exists()


def test_a_docstring_is_taken_apart() -> None:
    told = described(
        """What it does.

        before(x)  ->  after(x)

        one: of a kind.  two, three: these
        go on here. Also: not a name.
        """,
        ["one", "two", "three"],
    )
    assert told.text == ("What it does.", "```text\nbefore(x)  ->  after(x)\n```")
    assert told.fields == {"one": "of a kind.", **dict.fromkeys(("two", "three"), "these go on here. Also: not a name.")}


def test_types_are_written_as_a_recipe_sees_them() -> None:
    assert type_words(tuple[str, ...] | None) == "list of text"
    assert type_words(tuple[int, int, int]) == "list of 3 integers"
    assert type_words(Literal["a", "b"]) == "`a` or `b`"
    assert type_words(bool) == "true or false"


def test_a_field_without_a_meaning_is_an_error() -> None:
    with pytest.raises(LookupError, match=r"Lacking: its docstring does not describe the field 'b'; add 'b: \.\.\.'"):
        field_table(Lacking, described_class(Lacking, names_of(Lacking)))


def test_a_part_of_a_table_is_taken_by_the_names_of_rows_and_columns() -> None:
    text = "intro\n| engine | ms | x |\n| --- | --- | --- |\n| a | 1 | 2 |\n| b | 3 | 4 |\n"
    assert results._part(text, ["b"], ["x", "engine"], "t") == "| x | engine |\n| --- | --- |\n| 4 | b |"
    with pytest.raises(ValueError, match=r"t\.md has no 'c'; it has a, b"):
        results._part(text, ["c"], [], "t")
