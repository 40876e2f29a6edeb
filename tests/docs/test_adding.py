"""The examples of docs/adding are finished: installed as a package of its own, they pass their families' laws and their own tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import sparsecc
from sparsecc import registry
from tests.graph.onnx_models import mlp
from tests.packages import install, installed
from tools.reference import DOCS, ROOT

PAGES = [
    page for page in sorted((DOCS / "adding").glob("*.md")) if page.name not in ("index.md", "format.md")
]  # which test_adding_format tries
LAWS = {  # the files of tests/laws that try a family; those of passes try each member that a pass can name
    "allocations": ["test_allocations.py"],
    "attention": ["test_attention.py"],
    "autotune.metrics": ["test_metrics.py"],
    "criteria": ["test_criteria.py"],
    "formats": ["test_formats.py"],
    "passes": ["test_passes_fx.py"],
    "patterns": ["test_patterns.py"],
    "precisions": ["test_precisions.py"],
    "refinements": ["test_refinements.py"],
    "structures": ["test_structures.py"],
    "train": ["test_train.py"],
}
LEFT_OUT = ("onnx", "saved", "convolutions", "with_norms")  # one host and one model will do: each is exported anew in a process of its own
RECIPES = ["prune{criterion=random,allocation=global,sparsity=0.5,min_weights=1} pack", "prune{pattern=2:4,min_weights=1} pack quantize"]


def _blocks(page: Path) -> dict[str, str]:
    """File name → code, of the blocks that have a title."""
    return dict(re.findall(r'^```python title="(\w+\.py)"\n(.*?)^```$', page.read_text(), re.MULTILINE | re.DOTALL))


@cache
def _points() -> dict[str, dict[str, str]]:
    """Family → member → value, as the pages tell a package to write them."""
    found: dict[str, dict[str, str]] = {}
    for page in PAGES:
        [block] = re.findall(r"^```toml[^\n]*\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        for group, points in tomllib.loads(block)["project"]["entry-points"].items():
            found.setdefault(group.removeprefix("sparsecc."), {}).update(points)
    return found


def _package() -> tuple[str, str, dict[str, str]]:
    """All examples, and their tests, as one package: its name, its entry points, its modules."""
    points = "\n".join(f"[sparsecc.{family}]\n" + "\n".join(f"{k} = {v}" for k, v in of.items()) for family, of in _points().items())
    modules = {name.removesuffix(".py"): code for page in PAGES for name, code in _blocks(page).items()}
    return "examples", points, modules


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A folder in which they are installed."""
    install(tmp_path, *_package())
    return tmp_path


def test_each_page_has_a_member_and_a_test() -> None:
    for page in PAGES:
        tests = [name for name in _blocks(page) if name.startswith("test_")]
        assert tests and len(_blocks(page)) == 2 * len(tests), f'{page.name}: a block title="NAME.py" and one title="test_NAME.py"'


@pytest.mark.timeout(900)
def test_they_pass_the_laws_of_their_families_and_their_own_tests(examples: Path) -> None:
    members = [name for of in _points().values() for name in of]
    laws = sorted({f"tests/laws/{file}" for family in _points() for file in [*LAWS[family], "test_members.py"]})
    words = f"({' or '.join([*members, 'test_every_member_names_examples'])}) and not ({' or '.join(LEFT_OUT)})"
    asked = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pyproject.toml", "-k", words]
    path = os.pathsep.join([str(examples), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [*asked, *laws, *map(str, sorted(examples.glob("test_*.py")))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert run.stdout.count(".") > 10 * len(members)  # one for each that passed


def test_recipes_that_do_not_name_them_give_the_same_bytes(tmp_path: Path) -> None:
    def converted() -> list[bytes]:
        return [sparsecc.convert(mlp(), recipe)[0].SerializeToString(deterministic=True) for recipe in RECIPES]

    before = converted()
    with installed(tmp_path, *_package()):
        after = converted()
        assert all(name in registry.members(family) for family, of in _points().items() for name in of)
    assert after == before
