from __future__ import annotations

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
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as raised:
        read_yaml(path)
    assert str(raised.value).startswith(f"{path}{message}")
    assert "\n" not in str(raised.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe file"):
        read_yaml(tmp_path / "missing.yaml")
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)


def test_scalars(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("[2:4, 1e-3, 0.5, -7, .5, 1., true, null, 4x1, '12', 1:30:00, .inf]")
    assert read_yaml(path) == ["2:4", 1e-3, 0.5, -7, 0.5, 1.0, True, None, "4x1", "12", "1:30:00", float("inf")]
    assert yaml.safe_load("2:4") == 124  # the safe loader of everybody else stays as it was
