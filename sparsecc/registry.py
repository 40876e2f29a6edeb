"""Plug-in families: a folder is a family, a file is a member, the file's name is the member's name.

A member of several files is a folder of that name. A trailing underscore of a file is no part of the name, so that `global_.py` can be
`global`. Files named `base`, files starting with an underscore and those that the package lists in `HELPERS` are no members.

Other packages add members by entry points: one in the group `sparsecc.criteria`, called `taylor`, that names a class or a module with one,
is the criterion `taylor`. A name that two claim is an error for the whole family.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any, TypeVar

from sparsecc.errors import RecipeError, RecipeWarning

T = TypeVar("T")

_SHOWN = 10
_names: dict[type, str] = {}  # of classes from entry points, which no file is named after


def members(family: str) -> list[str]:
    """Names of all members of `family` (a package below sparsecc, such as "criteria"), sorted, without importing them.
    Raises RecipeError for a name that two packages claim."""
    return sorted([*_own(family), *_plugins(family)])


def load(family: str, name: str) -> ModuleType:
    """The module of one member. Raises RecipeError with the nearest valid name when there is none, and for a package that cannot be
    imported."""
    if name in _plugins(family):
        loaded = _loaded(family, name)
        return loaded if isinstance(loaded, ModuleType) else sys.modules[loaded.__module__]
    files = _own(family)
    if name not in files:
        raise RecipeError(f"{family}: no {name!r}{did_you_mean(name, members(family))}")
    return importlib.import_module(f"sparsecc.{family}.{files[name]}")


def load_class(family: str, name: str, base: type[T]) -> type[T]:
    """The one subclass of `base` that the member's module defines, or that its entry point names. Raises what `load` raises."""
    if name not in _plugins(family):
        return _one_class(load(family, name), base)
    loaded: Any = _loaded(family, name)
    try:
        cls = _one_class(loaded, base) if isinstance(loaded, ModuleType) else loaded
    except TypeError as error:
        raise RecipeError(f"{_place(family, name)}: {error}") from None
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise RecipeError(f"{_place(family, name)} is no {base.__name__}")
    _names[cls] = name
    return cls


def load_part(family: str, name: str, part: str, base: type[T]) -> type[T]:
    """The one subclass of `base` in a module of a member that is a folder: `part` is the module's name. Raises RecipeError where there is
    no such member, and for a package's that is not so."""
    folder = load(family, name).__name__
    try:
        return _one_class(importlib.import_module(f"{folder}.{part}"), base)
    except Exception as error:
        if name not in _plugins(family):
            raise
        raise RecipeError(f"{_place(family, name)} has no {base.__name__} in '{part}': {type(error).__name__}: {error}") from error


def create(family: str, name: str, base: type[T], **options: Any) -> T:
    """An instance of one member. Raises what `load` raises."""
    cls: Any = load_class(family, name, base)  # a member is concrete where its base is abstract
    return cls(**options)


def classes(family: str, base: type[T]) -> Iterator[type[T]]:
    """Of all members, in the order of their names. A package that cannot be imported is warned of and left out."""
    for name in members(family):
        try:
            yield load_class(family, name, base)
        except RecipeError as error:
            warnings.warn(str(error), RecipeWarning, stacklevel=3)


def name_of(member: object) -> str:
    """The name of an instance of a member's class: that of the file that defines it, or of its entry point."""
    return _names.get(type(member)) or type(member).__module__.rsplit(".", 1)[-1].rstrip("_")


def require(field: str, family: str, name: str) -> None:
    """Raises RecipeError, beginning with the field, when `family` has no member `name`. Imports no member."""
    known = members(family)
    if name not in known:
        raise RecipeError(f"{field}: no {name!r}{did_you_mean(name, known)}")


def did_you_mean(name: str, known: list[str]) -> str:
    """'; did you mean X?' when a known name is near, otherwise the list, cut to what one line can hold."""
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are: {', '.join(known)}" if len(known) <= _SHOWN else f"; there are {len(known)}: {', '.join(known[:_SHOWN])}, ..."


@functools.cache
def _own(family: str) -> dict[str, str]:
    """Member → file, of this package."""
    package = importlib.import_module(f"sparsecc.{family}")
    helpers = ("base", *getattr(package, "HELPERS", ()))
    files = [m.name for m in pkgutil.iter_modules(package.__path__) if m.name not in helpers and not m.name.startswith("_")]
    return {file.rstrip("_"): file for file in files}


@functools.cache
def _plugins(family: str) -> dict[str, EntryPoint]:
    """Member → entry point, of other packages."""
    found: dict[str, EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=f"sparsecc.{family}"):
        other = "sparsecc" if point.name in _own(family) else _package(found[point.name]) if point.name in found else None
        if other is not None:
            raise RecipeError(f"{family}: {point.name!r} is claimed by two packages, {other} and {_package(point)}; remove one of them")
        found[point.name] = point
    return found


def _loaded(family: str, name: str) -> Any:
    point = _plugins(family)[name]
    try:
        return point.load()
    except Exception as error:
        raise RecipeError(f"{_place(family, name)} cannot be imported: {type(error).__name__}: {error}") from error


def _one_class(module: ModuleType, base: type[T]) -> type[T]:
    found = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, base) and v.__module__ == module.__name__]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one {base.__name__}, it defines {len(found)}")
    return found[0]


def _place(family: str, name: str) -> str:
    return f"{family}: {name!r} of package {_package(_plugins(family)[name])}"


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
