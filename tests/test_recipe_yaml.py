from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from sparsecc.errors import RecipeError
from sparsecc.recipe_yaml import read_yaml


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": empty"),
        (b"# only a comment\n", ": empty"),
        (b"passes:\n  - prune: {sparsity: 0.5, sparsity: 0.6}", ":2:28: key 'sparsity' is given twice"),
        (b"passes: [", ":1:10: expected the node content"),
        (b"\x00\x01", ": is no text: special characters are not allowed"),
        (b"\xff\xfe\x00\xd8\x80", ": "),
        (b"a: !!python/object:os.system {}", ":1:4: could not determine a constructor for the tag"),
        (b"? [1, 2]\n: 3", ":1:3: found unhashable key"),
        (b"[" * 5000, ": nested too deeply"),
        (b"[" * 60 + b"]" * 60, ":1:1: nested too deeply"),
        (b"passes: &a [*a]", ":1:1: nested too deeply for a recipe, or in itself"),
        (b'passes: !!int "abc"', ":1:9: 'abc' is no int"),
        (b"passes: !!int ''", ":1:9: '' is no int"),
        (b"passes: !!bool x", ":1:9: 'x' is no bool"),
        (b"passes: !!timestamp x", ":1:9: 'x' is no timestamp"),
        (b"passes: !!float x", ":1:9: 'x' is no float"),
        (b"- " + b"1" * 5000, ":1:3: '" + "1" * 56 + "... is no int"),
        (b"a: " + b" " * (1 << 20), ": has more than 1 MB, which is no recipe"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as raised:
        read_yaml(path)
    assert str(raised.value).startswith(f"{path}{message}")
    assert "\n" not in str(raised.value)


def bomb(first: str, repeated: str) -> str:
    """Of 10^9 entries, in a few hundred bytes."""
    inner = f"[&a0 [{first}]{',*a0' * 9}]"
    for level in range(1, 9):
        inner = f"[&a{level} {inner}" + f",*a{level}" * 9 + "]"
    return repeated.replace("INNER", inner)


@pytest.mark.parametrize("content", [bomb("x", "passes: INNER"), bomb("{a: 1}", "passes: {<<: INNER}")], ids=["aliases", "merges"])
def test_aliases_do_not_explode(tmp_path: Path, content: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=f"{path}:1:1: stands for more than 100000 entries"):
        read_yaml(path)


def test_aliases_that_help_are_read(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("base: &base {sparsity: 0.5}\nother: {<<: *base, pattern: 4x1}\nlist: [*base, *base]")
    content = read_yaml(path)
    assert content["other"] == {"sparsity": 0.5, "pattern": "4x1"}
    assert content["list"] == [{"sparsity": 0.5}] * 2


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe file"):
        read_yaml(tmp_path / "missing.yaml")
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RecipeError, match="pipe: is no regular file, so that it is not read"):
        read_yaml(tmp_path / "pipe")


def test_scalars(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("[2:4, 1e-3, 0.5, -7, .5, 1., true, null, 4x1, '12', 1:30:00, .inf, 2024-99-99]")
    assert read_yaml(path) == ["2:4", 1e-3, 0.5, -7, 0.5, 1.0, True, None, "4x1", "12", "1:30:00", float("inf"), "2024-99-99"]
    assert yaml.safe_load("2:4") == 124  # the safe loader of everybody else stays as it was
