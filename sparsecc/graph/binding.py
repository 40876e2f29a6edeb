"""What a caller may pass to a model, compiled or in its host: checked before anything runs, without torch where none is passed."""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecc.errors import InputError
from sparsecc.graph.base import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

    Array = np.ndarray | Tensor

Shapes = tuple[tuple[int, ...], ...]


def is_torch(value: Any) -> bool:
    """Whether `value` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def dtype_name(array: np.ndarray | Tensor) -> str:
    """numpy's name of the element type, for torch tensors too."""
    return _name(array.dtype)


@functools.cache  # every call of a compiled model asks
def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def bind(specs: Sequence[TensorSpec], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Array]:
    """The inputs in the model's order. `args` may also be one mapping from names to arrays.

    Raises InputError, naming the input, for a wrong count, name, type, dtype, rank or dimension.
    """
    if len(args) == 1 and isinstance(args[0], Mapping):
        args, kwargs = (), {**args[0], **kwargs}
    values = list(args) if len(args) == len(specs) and not kwargs else _in_order(specs, args, kwargs)
    sizes: dict[str, tuple[int, str]] = {}
    return [_checked(spec, value, sizes) for spec, value in zip(specs, values, strict=True)]


def _in_order(specs: Sequence[TensorSpec], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    names = [spec.name for spec in specs]
    expected = f"the model takes {len(names)}: {', '.join(names)}"
    if len(args) > len(names):
        raise InputError(f"{len(args)} inputs given, {expected}")
    given = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise InputError(f"no input {name!r}; " + (f"did you mean {near[0]!r}?" if near else expected))
        if name in given:
            raise InputError(f"input {name!r} given twice, by position and by name")
        given[name] = value
    given = {spec.name: spec.default for spec in specs if spec.default is not None} | given
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(f"input {missing[0]!r} is missing; {expected}")
    return [given[name] for name in names]


def _checked(spec: TensorSpec, value: Any, sizes: dict[str, tuple[int, str]]) -> Array:
    if not isinstance(value, np.ndarray):
        value = _torch_checked(spec, value)
    if dtype_name(value) != spec.dtype:
        raise InputError(f"input {spec.name!r} is {dtype_name(value)}, the model takes {spec.dtype}")
    if value.shape != spec.shape:
        _check_shape(spec, tuple(value.shape), sizes)
    return value


def _torch_checked(spec: TensorSpec, value: Any) -> Tensor:
    if not is_torch(value):
        raise InputError(f"input {spec.name!r} is a {type(value).__name__}; pass a numpy array or a torch tensor")
    if value.is_meta or str(value.layout) != "torch.strided":
        raise InputError(f"input {spec.name!r} is a {'meta' if value.is_meta else 'sparse'} tensor; pass one that holds all its values")
    return value.resolve_neg() if value.is_neg() else value  # an imaginary part may be the negative of what it holds


def _check_shape(spec: TensorSpec, shape: tuple[int, ...], sizes: dict[str, tuple[int, str]]) -> None:
    if len(shape) != len(spec.shape):
        raise InputError(f"input {spec.name!r} has shape {shape}, the model takes {_written(spec.shape)}")
    for axis, (size, wanted) in enumerate(zip(shape, spec.shape, strict=True)):
        if isinstance(wanted, int) and size != wanted:
            raise InputError(f"input {spec.name!r} has {size} at axis {axis}, the model takes {_written(spec.shape)}")
        if isinstance(wanted, str):
            other, owner = sizes.setdefault(wanted, (size, spec.name))
            if size != other:
                raise InputError(f"input {spec.name!r} has {wanted} = {size} at axis {axis}, but input {owner!r} has {wanted} = {other}")


def reject_nan(specs: Sequence[TensorSpec], values: Sequence[Array]) -> None:
    """Raises InputError naming the first input that holds a NaN."""
    for spec, value in zip(specs, values, strict=True):
        if _is_float(value) and 0 not in value.shape:
            # the least is NaN if there is one; 2.5 times as fast as an array of booleans
            least = np.minimum.reduce(value, axis=None) if isinstance(value, np.ndarray) else value.min()
            if least != least:
                raise InputError(f"input {spec.name!r} holds NaN")


def reject_infinity(specs: Sequence[TensorSpec], values: Sequence[Array]) -> None:
    """Raises InputError naming the first input that holds +infinity. What is masked out has -infinity."""
    for spec, value in zip(specs, values, strict=True):
        if _is_float(value) and 0 not in value.shape and value.max() == float("inf"):
            raise InputError(f"input {spec.name!r} holds infinity")


def reject_outside(specs: Sequence[TensorSpec], values: Sequence[Array], limits: Mapping[str, tuple[int, int]]) -> None:
    """Raises InputError naming the first input with an index that its table does not have; limits: see `codegen.library`."""
    for spec, value in zip(specs, values, strict=True):
        if spec.name not in limits or 0 in value.shape:
            continue
        (first, end), least, most = limits[spec.name], int(value.min()), int(value.max())
        if not first <= least <= most < end:
            raise InputError(
                f"input {spec.name!r} holds {most if most >= end else least}, it indexes a table of {end} by {first} to {end - 1}"
            )


def reject_zero(specs: Sequence[TensorSpec], values: Sequence[Array], divisors: Collection[str]) -> None:
    """Raises InputError naming the first input that divides integers and holds a zero."""
    for spec, value in zip(specs, values, strict=True):
        if spec.name in divisors and not bool((value != 0).all()):
            raise InputError(f"input {spec.name!r} holds 0, and the model divides integers by it")


def reject_images(specs: Sequence[TensorSpec], values: Sequence[Array], regions: Mapping[str, int]) -> None:
    """Raises InputError naming the first input with a region of an image that is not there; regions: see `codegen.library`."""
    for spec, value in zip(specs, values, strict=True):
        if spec.name not in regions or 0 in value.shape:
            continue
        least, most, count = float(value[:, 0].min()), float(value[:, 0].max()), regions[spec.name]
        if not 0 <= least <= most < count:
            wrong = most if most >= count else least
            raise InputError(f"input {spec.name!r} holds a region of image {wrong:g}; there are {count}, from 0 to {count - 1}")


def _is_float(value: Array) -> bool:
    return value.dtype.kind == "f" if isinstance(value, np.ndarray) else value.is_floating_point()


def shapes_of(values: Sequence[Array]) -> Shapes:
    return tuple(value.shape for value in values)  # torch's are tuples, too


def describe(specs: Sequence[TensorSpec], shapes: Shapes) -> str:
    """'input_ids 1x128, mask 1x128', for messages."""
    return ", ".join(f"{spec.name} {'x'.join(map(str, shape)) or 'scalar'}" for spec, shape in zip(specs, shapes, strict=True))


def _written(shape: tuple[int | str, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
