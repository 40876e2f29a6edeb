"""Reading a recipe file: YAML that builds plain values only, with repeated keys refused and `2:4` read as text."""

from __future__ import annotations

import re
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import yaml

from sparsecc.errors import RecipeError


def read_yaml(path: str | PathLike[str]) -> Any:
    """The content of a YAML file. Raises RecipeError, naming file and line, for one that is missing, empty or no YAML."""
    name = fspath(path)
    try:
        with Path(path).open("rb") as file:
            content = yaml.load(file, Loader=_Loader)
    except FileNotFoundError:
        raise RecipeError(f"{name}: no such recipe file") from None
    except OSError as error:
        raise RecipeError(f"{name}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise RecipeError(f"{name}: nested too deeply for a recipe") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}{_place(error)}: {_problem(error)}") from None
    if content is None:
        raise RecipeError(f"{name}: empty")
    return content


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: PyYAML follows 1.1, where 2:4 is 124 (base 60) and 1e-3 is text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)


_NUMBERS = {
    "tag:yaml.org,2002:int": (re.compile(r"[-+]?[0-9]+"), "-+0123456789"),
    "tag:yaml.org,2002:float": (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan"), "-+.0123456789"),
}

_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, (_pattern, _first) in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern.pattern})\Z"), list(_first))


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}:{mark.column + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f"is no text: {error.reason}"
    return " ".join(str(getattr(error, "problem", None) or error).split())
