"""Recipes: an ordered list of passes as YAML, a dict or objects, checked strictly before anything runs.

passes:
  - prune: {targets: ["re:.*encoder.*"], pattern: "4x1", sparsity: 0.5}
  - pack: {}

The names are the files in `passes/`, the keys are the fields of the pass in that file. Field errors name the place:
"recipe.yaml: passes[0].prune.sparsty: no such field; did you mean 'sparsity'?".
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from os import PathLike, fspath
from typing import Any

from sparsecc import registry
from sparsecc.errors import RecipeError
from sparsecc.passes.base import Pass, registered_name
from sparsecc.recipe_yaml import read_yaml


@dataclass(frozen=True)
class Recipe:
    """passes: in the order in which they run; none leaves the model as it is.  source: how errors call the recipe."""

    passes: tuple[Pass, ...] = ()
    source: str = field(default="recipe", compare=False)

    @classmethod
    def load(cls, source: Recipe | Mapping[str, Any] | str | PathLike[str] | None) -> Recipe:
        """A recipe from a YAML file, from a mapping of the same structure, or as it is. None: pack the zeros that are there.

        Raises RecipeError for what cannot be read and for what no pass understands.
        """
        if isinstance(source, Recipe):
            return source
        if source is None:
            return cls._parse({"passes": [{"pack": {}}]}, "recipe")
        if isinstance(source, Mapping):
            return cls._parse(source, "recipe")
        if isinstance(source, str | PathLike):
            return cls._parse(read_yaml(source), fspath(source))
        raise RecipeError(f"recipe: expected a path, a mapping or a Recipe, not {_kind(source)}")

    def to_dict(self) -> dict[str, Any]:
        """What `load` reads back as this recipe: every field of every pass."""
        return {"passes": [{registered_name(step): asdict(step)} for step in self.passes]}

    @classmethod
    def _parse(cls, content: Any, source: str) -> Recipe:
        if not isinstance(content, Mapping):
            raise RecipeError(f"{source}: expected a mapping with the key 'passes', not {_kind(content)}")
        for key in content:
            if key != "passes":
                raise RecipeError(f"{source}: no such key {key!r}{registry.did_you_mean(str(key), ['passes'])}")
        steps = content.get("passes")
        if not isinstance(steps, list | tuple):
            raise RecipeError(f"{source}: 'passes' has to be a list, not {_kind(steps)}")
        return cls(tuple(_parse_pass(step, f"{source}: passes[{i}]") for i, step in enumerate(steps)), source)


def _parse_pass(step: Any, where: str) -> Pass:
    """One entry of the list: `prune: {...}`, `pack:` or just `pack`."""
    if isinstance(step, Pass):
        return step
    if isinstance(step, str):
        step = {step: {}}
    if not isinstance(step, Mapping) or len(step) != 1:
        raise RecipeError(f"{where}: expected one pass with its fields, as 'pack: {{}}', not {_kind(step)}")
    [(name, options)] = step.items()
    known = registry.members("passes")
    if name not in known:
        raise RecipeError(f"{where}: no pass {name!r}{registry.did_you_mean(str(name), known)}")
    if not isinstance(options, Mapping | None):
        raise RecipeError(f"{where}.{name}: expected a mapping of fields, not {_kind(options)}")
    return _build(registry.load_class("passes", name, Pass), options or {}, f"{where}.{name}")  # type: ignore[type-abstract]


def _build(cls: type[Pass], options: Mapping[str, Any], where: str) -> Pass:
    """The pass with these fields. Its own errors begin with the field's name, so that they continue `where`."""
    known = [f.name for f in fields(cls)]
    for key in options:
        if key not in known:
            raise RecipeError(f"{where}.{key}: no such field{registry.did_you_mean(str(key), known)}")
    checked = _check_types(cls, options, where)
    try:
        return cls(**checked)
    except RecipeError as error:
        raise RecipeError(f"{where}.{error}") from None


def _check_types(cls: type[Pass], options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options as the types that the fields declare; strictly, save that a list is read as a tuple."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    types = typing.get_type_hints(cls)
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    checked = {}
    for key, value in options.items():
        try:
            checked[key] = TypeAdapter(types[key], config=strict).validate_python(_tuples(value))
        except ValidationError as error:
            raise RecipeError(f"{where}.{key}: {_explain(error, types[key], value)}") from None
    return checked


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _explain(error: Any, wanted: Any, value: Any) -> str:
    """What is wrong with a value, in one line."""
    if typing.get_origin(wanted) is tuple and isinstance(value, str):
        return f"expected a list, as [{value!r}], not text"
    first = error.errors(include_url=False)[0]
    if first["type"] in ("missing", "too_long"):  # of a tuple with a fixed number of entries
        return f"expected a list of another length, not {_shown(value)}"
    message = first["msg"].removeprefix("Input should be ").replace("valid tuple", "list").replace("valid ", "")
    return f"expected {message}, not {_shown(first['input'])}"


def _shown(value: Any) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind(value: Any) -> str:
    names = {type(None): "nothing", str: "text", list: "a list", tuple: "a list", bool: "true/false", int: "a number", float: "a number"}
    if isinstance(value, Mapping):
        return f"a mapping with the keys {_shown(list(value))}" if value else "an empty mapping"
    return names.get(type(value), type(value).__name__)
