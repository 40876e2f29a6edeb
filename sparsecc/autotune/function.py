"""A metric of the user's: a Python function that gets a callable model and returns a number, higher is better.

It sees the model alone, so that it may use data, labels and libraries of its own. Its value counts relative to the dense model's.
"""

from __future__ import annotations

import importlib
import math
import numbers
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sparsecc.autotune.metrics.base import Value
from sparsecc.errors import MetricError, RecipeError
from sparsecc.options import shown
from sparsecc.registry import did_you_mean


def load(spec: str | Callable[..., Any]) -> tuple[str, Callable[..., Any]]:
    """A function and its name for errors. spec: "module:function", of a module that Python finds or that lies in the current folder, or the
    function itself. Raises RecipeError where there is none."""
    if not isinstance(spec, str):
        if not callable(spec):
            raise RecipeError(f"metric: {shown(spec)} is no function")
        return f"{getattr(spec, '__module__', '?')}:{getattr(spec, '__qualname__', type(spec).__name__)}", spec
    module_name, _, path = spec.partition(":")
    if not module_name or not path:
        raise RecipeError(f"metric: {shown(spec)} names no function; write it as module:function")
    found: Any = _module(module_name, spec)
    for name in path.split("."):
        if not hasattr(found, name):
            known = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            raise RecipeError(f"metric: {spec}: no {name!r}{did_you_mean(name, known) if known else ''}")
        found = getattr(found, name)
    if not callable(found):
        raise RecipeError(f"metric: {spec} is a {type(found).__name__}, no function")
    return spec, found


def _module(name: str, spec: str) -> Any:
    with _current_folder():
        try:
            return importlib.import_module(name)
        except Exception as error:  # a module may raise anything while it runs
            raise RecipeError(f"metric: {spec}: {name} cannot be imported: {_said(error)}") from error


@contextmanager
def _current_folder() -> Iterator[None]:
    """First where modules are looked for; afterwards last, for what the module imports later."""
    folder = str(Path.cwd())
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        sys.path.append(folder)


class UserMetric:
    """The function with the dense model's value.

    name: for errors.  dense: the mean of two calls.  noise: how far the two were apart, in parts of it; 0 for a deterministic function.
    """

    def __init__(self, spec: str | Callable[..., Any], dense: Any) -> None:
        """dense: the dense model, a callable. Raises RecipeError where there is no such function, and MetricError where it fails
        or its value for the dense model is not above zero. Warns of a function that gives two values for one model."""
        self.name, self._function = load(spec)
        first, second = self._call(dense), self._call(dense)
        self.dense = (first + second) / 2
        if min(first, second) <= 0:
            low = min(first, second)
            raise MetricError(
                f"metric {self.name}: is {low:g} for the dense model, relative to which nothing can be said; let it be above zero"
            )
        self.noise = abs(first - second) / self.dense
        if self.noise:
            warnings.warn(
                f"metric {self.name}: gave {first:g} and then {second:g} for the same dense model, {self.noise:.2%} apart; smaller "
                "differences between models mean nothing. Set its seeds to make it exact",
                stacklevel=3,
            )

    def __call__(self, model: Any) -> Value:
        """A model's value in parts of the dense model's. spread: the noise, where there is any. Raises MetricError where the function
        fails."""
        return Value(self._call(model) / self.dense, self.noise or None)

    def _call(self, model: Any) -> float:
        try:
            found = self._function(model)
        except Exception as error:
            raise MetricError(f"metric {self.name}: raised {_said(error)}") from error
        value = _number(found)
        if value is None:
            raise MetricError(f"metric {self.name}: returned {shown(found)}, which is no number")
        if not math.isfinite(value):
            raise MetricError(f"metric {self.name}: returned {value}")
        return value


def _said(error: Exception) -> str:
    """In one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _number(found: Any) -> float | None:
    """Of Python, numpy or torch; None for anything else, True and False too."""
    if isinstance(found, bool | np.bool_):
        return None
    if isinstance(found, numbers.Real):
        return float(found)
    single = hasattr(found, "item") and getattr(found, "shape", None) == ()
    return _number(found.item()) if single else None
