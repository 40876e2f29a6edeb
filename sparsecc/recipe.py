"""Recipes: an ordered list of passes as YAML, a dict or objects, checked strictly before anything runs.

passes:
  - prune: {targets: ["re:.*encoder.*"], pattern: "4x1", sparsity: 0.5}
  - pack: {}
strict: true  # a pass that changes nothing is an error; left out, it is a warning

The names are the files in `passes/`, the keys are the fields of the pass in that file. Field errors name the place:
"recipe.yaml: passes[0].prune.sparsty: no such field; did you mean 'sparsity'?".
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from os import PathLike, fspath
from typing import Any

from sparsecc import registry
from sparsecc.errors import RecipeError
from sparsecc.options import build, kind, shown
from sparsecc.passes.base import Pass, registered_name
from sparsecc.recipe_text import read_text, write_text
from sparsecc.recipe_yaml import read_yaml

_KEYS = ["passes", "strict"]
_BEGINNING = re.compile(r"\s*([A-Za-z_]\w*\s+)*[A-Za-z_]\w*\{")


@dataclass(frozen=True)
class Recipe:
    """An ordered list of passes.

    passes: in the order in which they run; none leaves the model as it is.
    strict: whether a pass that changes nothing is an error.
    source: the name of the recipe in errors.
    assumed: whether nobody gave a recipe, so that this one may well find nothing to do.
    """

    passes: tuple[Pass, ...] = ()
    strict: bool = False
    source: str = field(default="recipe", compare=False)
    assumed: bool = field(default=False, compare=False)

    @classmethod
    def load(cls, source: Recipe | Mapping[str, Any] | str | PathLike[str] | None) -> Recipe:
        """A recipe from a YAML file, from a line as `prune{pattern=4x1,sparsity=0.5} pack` (see `recipe_text`), from a mapping of the
        same structure, or as it is. None: pack the zeros that are there.

        Raises RecipeError for what cannot be read and for what no pass understands.
        """
        if isinstance(source, Recipe):
            return source
        if source is None:
            return replace(cls._parse({"passes": [{"pack": {}}]}, "recipe"), assumed=True)
        if isinstance(source, Mapping):
            return cls._parse(source, "recipe")
        if isinstance(source, str | PathLike):
            line = isinstance(source, str) and _is_line(source)
            return cls._parse(read_text(source), "recipe") if line else cls._parse(read_yaml(source), fspath(source))  # type: ignore[arg-type]
        raise RecipeError(f"recipe: expected a path, a mapping or a Recipe, not {kind(source)}")

    def to_dict(self) -> dict[str, Any]:
        """What `load` reads back as this recipe: every field of every pass."""
        passes = [{registered_name(step): asdict(step)} for step in self.passes]
        return {"passes": passes, **({"strict": True} if self.strict else {})}

    def to_text(self) -> str:
        """The passes in one line that `load` reads, fields that have their defaults left out."""
        return write_text([{registered_name(step): _given(step)} for step in self.passes])

    @classmethod
    def _parse(cls, content: Any, source: str) -> Recipe:
        if not isinstance(content, Mapping):
            raise RecipeError(f"{source}: expected a mapping with the key 'passes', not {kind(content)}")
        for key in content:
            if key not in _KEYS:
                raise RecipeError(f"{source}: no such key {shown(key)}{registry.did_you_mean(str(key), _KEYS)}")
        steps = content.get("passes")
        if not isinstance(steps, list | tuple):
            raise RecipeError(f"{source}: 'passes' has to be a list, not {kind(steps)}")
        strict = content.get("strict", False)
        if not isinstance(strict, bool):
            raise RecipeError(f"{source}: 'strict' has to be true or false, not {kind(strict)}")
        return cls(tuple(_parse_pass(step, f"{source}: passes[{i}]") for i, step in enumerate(steps)), strict, source)


def _is_line(source: str) -> bool:
    """Whether this is a pipeline and no path: it begins with a name and a brace, or with the names of passes."""
    if os.path.exists(source):  # noqa: PTH110  # which takes whatever text there is
        return False
    words, passes = source.partition("{")[0].split(), registry.members("passes")
    if "{" not in source:
        return bool(words) and set(words) <= set(passes)
    return bool(_BEGINNING.match(source)) and set(words[:-1]) <= set(passes)


def _given(step: Pass) -> dict[str, Any]:
    values = {f.name: (getattr(step, f.name), f.default) for f in fields(step)}
    return {name: value for name, (value, default) in values.items() if value != default}


def _parse_pass(step: Any, where: str) -> Pass:
    """One entry of the list: `prune: {...}`, `pack:` or just `pack`."""
    if isinstance(step, Pass):
        return step
    if isinstance(step, str):
        step = {step: {}}
    if not isinstance(step, Mapping) or len(step) != 1:
        raise RecipeError(f"{where}: expected one pass with its fields, as 'pack: {{}}', not {kind(step)}")
    [(name, options)] = step.items()
    known = registry.members("passes")
    if name not in known:
        raise RecipeError(f"{where}: no pass {shown(name)}{registry.did_you_mean(str(name), known)}")
    if not isinstance(options, Mapping | None):
        raise RecipeError(f"{where}.{name}: expected a mapping of fields, not {kind(options)}")
    return build(registry.load_class("passes", name, Pass), options or {}, f"{where}.{name}")
