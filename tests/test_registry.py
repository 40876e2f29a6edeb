from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sparsecc import formats, patterns, registry
from sparsecc.criteria.base import Criterion
from sparsecc.errors import RecipeError, RecipeWarning
from sparsecc.formats.base import Format
from sparsecc.passes.base import Pass
from sparsecc.recipe import Recipe
from tests.packages import installed


def test_members_are_the_files_of_a_folder() -> None:
    assert registry.members("formats") == ["block", "csr", "nm"]
    assert "global" in registry.members("allocations")  # global_.py
    assert {"prune", "pack"} <= set(registry.members("passes"))
    assert "pipeline" not in registry.members("passes")  # in HELPERS


def test_load_offers_the_nearest_name_or_all() -> None:
    with pytest.raises(RecipeError, match="did you mean 'block'"):
        registry.load("formats", "blok")
    with pytest.raises(RecipeError, match="there are: block, csr, nm"):
        registry.load("formats", "zzz")
    with pytest.raises(RecipeError, match=r"^criterion: no 'magnitud'; did you mean 'magnitude'"):
        registry.require("criterion", "criteria", "magnitud")


def test_a_member_defines_one_class() -> None:
    assert registry.load_class("passes", "prune", Pass).__name__ == "Prune"
    with pytest.raises(TypeError, match="exactly one"):
        registry.load_class("formats", "csr", Pass)


def test_a_long_list_is_cut() -> None:
    assert registry.did_you_mean("zzz", [f"layer{number}" for number in range(200)]).startswith("; there are 200: layer0, layer1, ")
    assert len(registry.did_you_mean("zzz", [f"layer{number}" for number in range(200)])) < 120


TAYLOR = """
from sparsecc.criteria.base import Criterion

class Taylor(Criterion):
    def score(self, weight, stats, seed):
        return weight.square()
"""


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Installs packages with members of families: name, entry points, modules."""
    with ExitStack() as stack:
        yield lambda name, points, **modules: stack.enter_context(installed(tmp_path / name, name, points, modules))


@pytest.mark.parametrize("value", ["thing_a:Taylor", "thing_a"])
def test_other_packages_add_members(package, value: str) -> None:
    package("thing", f"[sparsecc.criteria]\ntaylor = {value}\n", thing_a=TAYLOR)
    assert "taylor" in registry.members("criteria")
    cls = registry.load_class("criteria", "taylor", Criterion)
    assert cls.__name__ == "Taylor" and registry.name_of(registry.create("criteria", "taylor", Criterion)) == "taylor"
    assert Recipe.load("prune{criterion=taylor,sparsity=0.5}").passes


def test_a_package_that_cannot_be_imported_is_named_and_the_rest_goes_on(package) -> None:
    package("broken", "[sparsecc.formats]\nodd = no_such_module\n")
    with pytest.raises(RecipeError, match=r"^formats: 'odd' of package broken cannot be imported: ModuleNotFoundError: No module"):
        registry.load("formats", "odd")
    with pytest.warns(RecipeWarning, match="'odd' of package broken cannot be imported"):
        assert len(list(registry.classes("formats", Format))) == 3
    assert formats.from_key("nm:2:4").key == "nm:2:4"


def test_a_name_that_two_claim(package) -> None:
    package("thing", "[sparsecc.criteria]\nmagnitude = thing_b\n[sparsecc.formats]\nodd = thing_b\n")
    package("other", "[sparsecc.formats]\nodd = thing_b\n")
    with pytest.raises(RecipeError, match=r"^criteria: 'magnitude' is claimed by two packages, sparsecc and thing; remove one of them"):
        registry.members("criteria")
    with pytest.raises(RecipeError, match=r"^formats: 'odd' is claimed by two packages, (thing and other|other and thing)"):
        registry.members("formats")


def test_what_is_no_member_of_the_family(package) -> None:
    package("thing", "[sparsecc.formats]\nodd = thing_c:Taylor\n", thing_c=TAYLOR)
    with pytest.raises(RecipeError, match=r"^formats: 'odd' of package thing is no Format"):
        registry.load_class("formats", "odd", Format)


ODD = """
from sparsecc.patterns.unstructured import Unstructured

class Odd(Unstructured):
    spelling = "'odd'"

    @classmethod
    def parse(cls, text):
        return cls() if text in ("odd", "4x1") else None
"""


def test_a_text_that_two_patterns_read(package) -> None:
    package("thing", "[sparsecc.patterns]\nodd = thing_d\n", thing_d=ODD)
    assert registry.name_of(patterns.parse("odd")) == "odd"
    assert str(patterns.parse("2:4")) == "2:4"
    with pytest.raises(RecipeError, match=r"^pattern: '4x1' is claimed by two patterns, block and odd; remove the package that adds one"):
        patterns.parse("4x1")
    with pytest.raises(RecipeError, match=r"N:M \(as '2:4'\), 'odd' and 'unstructured'"):
        patterns.parse("even")
    assert formats.from_key("block:4x1").key == "block:4x1"  # files are read all the same
