"""Reading what a user wants of training with masks."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from sparsecc import registry
from sparsecc.errors import RecipeError
from sparsecc.options import build, kind
from sparsecc.recipe_yaml import read_yaml
from sparsecc.train.base import Method


def read(source: Method | Mapping[str, Any] | str | PathLike[str]) -> Method:
    """The method that a mapping, a YAML file or an object stands for. Raises RecipeError for what cannot be read or is unknown."""
    if isinstance(source, Method):
        return source
    if isinstance(source, Mapping):
        return _parse(source, "recipe")
    if isinstance(source, str | PathLike):
        return _parse(read_yaml(source), fspath(source))
    raise RecipeError(f"recipe: expected a path, a mapping or a method of training, not {kind(source)}")


def _parse(content: Any, where: str) -> Method:
    if not isinstance(content, Mapping):
        raise RecipeError(f"{where}: expected a mapping with the key 'method', not {kind(content)}")
    known = registry.members("train")
    if "method" not in content:
        raise RecipeError(f"{where}.method: missing; there are: {', '.join(known)}")
    name = content["method"]
    if name not in known:
        raise RecipeError(f"{where}.method: no {name!r}{registry.did_you_mean(str(name), known)}")
    fields = {key: value for key, value in content.items() if key != "method"}
    return build(registry.load_class("train", name, Method), fields, where)
