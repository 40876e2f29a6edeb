"""A pipeline in one line, for the shell and for tests: `prune{pattern=4x1,sparsity=0.5} pack`.

A pass is its name, or its name and fields in braces. A value is written as in YAML's flow style, so that lists are in brackets, and text
with a comma, a space or a brace in it is in quotes: `prune{targets=["re:.*fc.*", head],sparsity=0.5}`.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

from sparsecc.errors import RecipeError
from sparsecc.options import shown
from sparsecc.recipe_yaml import parse_yaml

_NAME = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)")
_PLAIN = re.compile(r"[A-Za-z0-9_.:/*+-]+")
_OPENING, _CLOSING, _QUOTES = "[{", "]}", "'\""
_BEFORE_VALUES = "=,[{:"
MAX_LENGTH = 10_000


def read_text(line: str, where: str = "passes") -> dict[str, Any]:
    """The mapping that a recipe file of the same passes holds. Raises RecipeError, with the place in the line, for what is no pipeline."""
    if len(line) > MAX_LENGTH:
        raise RecipeError(f"{where}: has more than {MAX_LENGTH} characters; write a recipe file")
    steps, at = [], 0
    while line[at:].strip():
        name = _NAME.match(line, at)
        if name is None:
            raise RecipeError(f"{where}: expected the name of a pass at {shown(line[at:].strip())}")
        at = name.end()
        options: dict[str, Any] = {}
        if line[at : at + 1] == "{":
            end = _closing(line, at, where)
            options = _options(line[at + 1 : end], f"{where}: {name[1]}")
            at = end + 1
        if line[at : at + 1].strip():
            raise RecipeError(f"{where}: expected a space after {name[1]}, not {shown(line[at:])}")
        steps.append({name[1]: options})
    return {"passes": steps}


def write_text(steps: list[dict[str, Any]]) -> str:
    """The line that `read_text` reads back as these passes. steps: name → fields, one pass each."""
    return " ".join(_pass(name, options or {}) for step in steps for name, options in step.items())


def _pass(name: str, options: dict[str, Any]) -> str:
    return name + (f"{{{','.join(f'{key}={_value(value)}' for key, value in options.items())}}}" if options else "")


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_value(key)}: {_value(entry)}' for key, entry in value.items())}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return value if _is_plain(value) else "'" + value.replace("'", "''") + "'" if value.isprintable() else json.dumps(value)
    return repr(value)


def _is_plain(value: str) -> bool:
    try:
        return bool(_PLAIN.fullmatch(value)) and parse_yaml(value, "") == value
    except RecipeError:  # *name is YAML's for something else
        return False


def _options(inside: str, where: str) -> dict[str, Any]:
    """`a=1,b=[x, y]` → {"a": 1, "b": ["x", "y"]}"""
    options: dict[str, Any] = {}
    for part in _split(inside):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"{where}: expected field=value, not {shown(part.strip())}")
        if not value.strip():
            raise RecipeError(f"{where}.{key.strip()}: has no value")
        if key.strip() in options:
            raise RecipeError(f"{where}.{key.strip()}: given twice")
        options[key.strip()] = parse_yaml(value.strip(), f"{where}.{key.strip()}")
    return options


def _closing(line: str, opening: int, where: str) -> int:
    """Where the brace that opens at `opening` is closed."""
    for at, depth, quoted in _walk(line, opening):
        if depth == 0 and not quoted:
            return at
    raise RecipeError(f"{where}: {shown(line[opening:])} is not closed")


def _split(inside: str) -> list[str]:
    """At the commas that stand in no bracket and no quotes."""
    commas = [at for at, depth, quoted in _walk(inside, 0) if inside[at] == "," and depth == 0 and not quoted]
    bounds = [-1, *commas, len(inside)]
    parts = [inside[start + 1 : end] for start, end in itertools.pairwise(bounds)]
    return parts if inside.strip() else []


def _walk(text: str, start: int) -> list[tuple[int, int, bool]]:
    """Place, depth of brackets after it, and whether it is inside quotes, of each character."""
    depth, quote, before, found, doubled = 0, "", "=", [], False
    for at in range(start, len(text)):
        char = text[at]
        if quote:
            found.append((at, depth, True))
            if doubled:  # the second of two, which stand for one
                doubled = False
            elif char == quote == "'":
                doubled = text[at + 1 : at + 2] == "'"
                quote = quote if doubled else ""
            elif char == quote and not _escaped(text, at):
                quote = ""
            continue
        quote = char if char in _QUOTES and before in _BEFORE_VALUES else ""  # an apostrophe within a word opens nothing
        depth += (char in _OPENING) - (char in _CLOSING)
        before = before if char.isspace() else char
        found.append((at, depth, bool(quote)))
    return found


def _escaped(text: str, at: int) -> bool:
    """Whether an odd number of backslashes stands before."""
    return (at - len(text[:at].rstrip("\\"))) % 2 == 1
