"""Plug-in families: a folder is a family, a file is a member, the file's name is the member's name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from sparsecc.errors import RecipeError


def members(family: str) -> list[str]:
    """Names of all members of `family` (a package below sparsecc, such as "criteria"), sorted, without importing them."""
    package = importlib.import_module(f"sparsecc.{family}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "base" and not m.name.startswith("_"))


def load(family: str, name: str) -> ModuleType:
    """The module of one member. Raises RecipeError with the nearest valid name when there is none."""
    known = members(family)
    if name not in known:
        raise RecipeError(f"{family}: no {name!r}{did_you_mean(name, known)}")
    return importlib.import_module(f"sparsecc.{family}.{name}")


def did_you_mean(name: str, known: list[str]) -> str:
    """'; did you mean X?' when a known name is near, otherwise the whole list."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(known)}"
