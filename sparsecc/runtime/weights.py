"""Weights on disk: the safetensors layout, written as a stream and read in place.

The layout is written here, because the safetensors library builds the whole file in memory and orders tensors by name; here tensors
whose size is a multiple of 64 bytes come first, so that they stay aligned and need no copy. The library reads the result.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

from sparsecc.codegen.alignment import ALIGNMENT, in_place
from sparsecc.errors import ArtifactError
from sparsecc.runtime.tensors import to_tvm

_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
_DTYPES = {code: name for name, code in _NAMES.items()}


class WeightStore:
    """The weights of all specializations of a model, each distinct array held once, where generated code can read it in place.

    A key is made of what it stands for (`content_key`), so that it never comes to mean another array.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        self.arrays: dict[str, np.ndarray] = {key: in_place(array) for key, array in (arrays or {}).items()}
        self._tensors: dict[str, Any] = {}

    def adopt(self, key: str, array: np.ndarray) -> None:
        """Hold the array under its `content_key`, unless an equal one is held."""
        if key not in self.arrays:
            self.arrays[key] = in_place(array)

    def tensor(self, key: str) -> Any:
        """The TVM tensor over the array; one for all threads."""
        if key not in self._tensors:
            self._tensors[key] = to_tvm(self.arrays[key])
        return self._tensors[key]

    def keep_only(self, keys: Iterable[str]) -> None:
        """Forget all others."""
        kept = set(keys)
        self.arrays = {key: array for key, array in self.arrays.items() if key in kept}
        self._tensors = {key: tensor for key, tensor in self._tensors.items() if key in kept}


def content_key(array: np.ndarray) -> str:
    """128 bits in hex: equal for arrays of equal type, shape and contents, and for no others."""
    digest = hashlib.sha256(f"{array.dtype.name} {array.shape}".encode())
    digest.update(_bytes(array))
    return digest.hexdigest()[:32]


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def write(stream: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file. Only one tensor at a time is touched."""
    order = sorted(arrays, key=lambda name: (arrays[name].nbytes % ALIGNMENT != 0, -arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {}
    offset = 0
    for name in order:
        array = arrays[name]
        header[name] = {"dtype": _NAMES[array.dtype.name], "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    stream.write(struct.pack("<Q", len(text)) + text)
    for name in order:
        stream.write(_bytes(arrays[name]))


def read(buffer: memoryview) -> dict[str, np.ndarray]:
    """Arrays over `buffer`, a whole safetensors file, in the file's order; nothing is copied. Raises ArtifactError when it is malformed."""
    try:
        (length,) = struct.unpack("<Q", buffer[:8])
        header = json.loads(bytes(buffer[8 : 8 + length]))
        data = buffer[8 + length :]
        return {name: _array(data, entry) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ArtifactError(f"the weights are malformed: {error}") from error


def _array(data: memoryview, entry: Mapping[str, Any]) -> np.ndarray:
    start, end = entry["data_offsets"]
    return np.frombuffer(data[start:end], dtype=_numpy_dtype(_DTYPES[entry["dtype"]])).reshape(entry["shape"])


def _numpy_dtype(name: str) -> np.dtype:
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)
