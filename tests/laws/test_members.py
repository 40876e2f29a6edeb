"""What a member has to bring so that the laws can try it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from sparsecc import registry
from tests.laws.members import BASES, STRUCTURES, member

FORMS = {  # of an example, by family
    "formats": '"PARAMETERS", as `parse` reads them',
    "passes": 'Example({"FIELD": value}), a Pass\'s options and the models that it works on',
    "patterns": '"PATTERN", as recipes spell it',
    "precisions": '"OPTIONS", as `parse` reads them',
    "structures": '"PARAMETERS", as `parse` reads them',
}
OPTIONS = '{"FIELD": value}, the options of one member'


def lacks(family: str, cls: type) -> str | None:
    """What to add where, for a member that names no examples."""
    if cls.examples:  # type: ignore[attr-defined]
        return None
    place = f"{family}/{Path(inspect.getfile(cls)).name}"
    return f"{place} has no example: add `examples = (...,)` to {cls.__name__}; each is {FORMS.get(family, OPTIONS)}"


@pytest.mark.parametrize("family", BASES)
def test_every_member_names_examples(family: str) -> None:
    found = [lack for name in registry.members(family) if (lack := lacks(family, member(family, name)))]
    assert not found, "\n".join(found)


def test_a_member_without_an_example_is_told_what_to_add_and_where() -> None:
    class Kronecker:
        examples = ()

    assert lacks("structures", Kronecker) == (
        'structures/test_members.py has no example: add `examples = (...,)` to Kronecker; each is "PARAMETERS", as `parse` reads them'
    )


def test_every_structure_has_an_example_for_a_small_matrix() -> None:
    small = {registry.name_of(structure) for structure in STRUCTURES if structure.check(8, 16) is None}
    assert sorted(small) == registry.members("structures"), "tests/ops tries 8×16 matrices: add an example that they can have"
