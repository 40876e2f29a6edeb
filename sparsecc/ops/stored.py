"""The weight that an operator of the vocabulary was given, read back: by the tensors, a key, and which parameter holds the key.

Torch's operators call that parameter as ONNX's nodes call their attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sparsecc import formats, precisions, structures

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.forms import Form, Storage

_FROM_KEY: dict[str, Callable[[str], Any]] = {  # → Storage
    "format": formats.from_key,
    "structure": structures.from_key,
    "scheme": precisions.scheme_from_key,
}


def parameter_among(names: Iterable[str]) -> str:
    """The parameter of an operator that holds a storage's key. Raises KeyError for an operator that has none."""
    for name in names:
        if name in _FROM_KEY:
            return name
    raise KeyError("no parameter says how the weight is stored")


def storage(parameter: str, key: str) -> Storage:
    """Raises RecipeError for a key that sparsecc does not write."""
    return _FROM_KEY[parameter](key)


def restore(tensors: Sequence[Tensor], parameter: str, key: str, rows: int, cols: int) -> Form:
    """The weight that was flattened into `tensors`. Raises what `storage` and `Storage.hold` raise."""
    return storage(parameter, key).hold(rows, cols, tensors)
