"""Plug-in families: a folder is a family, a file is a member, the file's name is the member's name.

A trailing underscore of a file is no part of the name, so that `global_.py` can be `global`. Files named `base`, files
starting with an underscore and those that the package lists in `HELPERS` are no members.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

from sparsecc.errors import RecipeError

T = TypeVar("T")

_SHOWN = 10


def members(family: str) -> list[str]:
    """Names of all members of `family` (a package below sparsecc, such as "criteria"), sorted, without importing them."""
    return sorted(name.rstrip("_") for name in _files(family))


def load(family: str, name: str) -> ModuleType:
    """The module of one member. Raises RecipeError with the nearest valid name when there is none."""
    files = {file.rstrip("_"): file for file in _files(family)}
    if name not in files:
        raise RecipeError(f"{family}: no {name!r}{did_you_mean(name, sorted(files))}")
    return importlib.import_module(f"sparsecc.{family}.{files[name]}")


def load_class(family: str, name: str, base: type[T]) -> type[T]:
    """The one subclass of `base` that the member's module defines. Raises RecipeError when there is no such member."""
    module = load(family, name)
    found = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, base) and v.__module__ == module.__name__]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one {base.__name__}, it defines {len(found)}")
    return found[0]


def name_of(member: object) -> str:
    """The name of an instance of a member's class: that of the file that defines it."""
    return type(member).__module__.rsplit(".", 1)[-1].rstrip("_")


def require(field: str, family: str, name: str) -> None:
    """Raises RecipeError, beginning with the field, when `family` has no member `name`. Imports no member."""
    known = members(family)
    if name not in known:
        raise RecipeError(f"{field}: no {name!r}{did_you_mean(name, known)}")


def _files(family: str) -> list[str]:
    package = importlib.import_module(f"sparsecc.{family}")
    helpers = ("base", *getattr(package, "HELPERS", ()))
    return [m.name for m in pkgutil.iter_modules(package.__path__) if m.name not in helpers and not m.name.startswith("_")]


def did_you_mean(name: str, known: list[str]) -> str:
    """'; did you mean X?' when a known name is near, otherwise the list, cut to what one line can hold."""
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are: {', '.join(known)}" if len(known) <= _SHOWN else f"; there are {len(known)}: {', '.join(known[:_SHOWN])}, ..."
