"""Reading a recipe file: YAML that builds plain values only, with repeated keys refused and `2:4` read as text.

What it costs is bounded by the file's size, which is bounded too: aliases must not stand for more than could have been written out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import yaml

from sparsecc.errors import RecipeError
from sparsecc.files import require_regular
from sparsecc.options import cannot_be_walked, shown

_MAX_BYTES = 1 << 20


def read_yaml(path: str | PathLike[str]) -> Any:
    """The content of a YAML file. Raises RecipeError, naming file and line, for one that is missing, empty or no YAML."""
    name = fspath(path)
    require_regular(path, RecipeError)
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(f"{name}: no such recipe file") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise RecipeError(f"{name}: cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(text) > _MAX_BYTES:
        raise RecipeError(f"{name}: has more than {_MAX_BYTES >> 20} MB, which is no recipe")
    content = parse_yaml(text, name)
    if content is None:
        raise RecipeError(f"{name}: empty")
    return content


def parse_yaml(text: str | bytes, name: str) -> Any:
    """The value that YAML text stands for. Raises RecipeError, which begins with `name` and the line, for what is no YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise RecipeError(f"{name}: nested too deeply for a recipe") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}{_place(error)}: {_problem(error)}") from None


def yaml_text(content: Mapping[str, Any]) -> str:
    """What `parse_yaml` reads back as this, with one line for each entry of a list."""
    return yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False, allow_unicode=True, width=120)  # JSON: no tuples, no aliases


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers, and no dates: PyYAML follows 1.1, where 2:4 is 124 (base 60) and 1e-3 is text."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        problem = cannot_be_walked(node, _children)
        if problem:
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark if node else None)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError):  # of PyYAML's own scalars, as int("abc")
            problem = f"{shown(str(node.value))} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {shown(key)} is given twice", key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _children(node: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


_NUMBERS = {
    "tag:yaml.org,2002:int": (re.compile(r"[-+]?[0-9]+"), "-+0123456789"),
    "tag:yaml.org,2002:float": (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan"), "-+.0123456789"),
}

_OTHERS = {*_NUMBERS, "tag:yaml.org,2002:timestamp"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OTHERS]
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
