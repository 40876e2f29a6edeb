"""Reading .npz files: what one declares is held against what is in it before any memory is taken."""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from os import PathLike
from typing import IO, Any

import numpy as np

from sparsecc import memory
from sparsecc.errors import InputError
from sparsecc.files import require_regular

_SUFFIX = ".npy"
_PARSING = (ValueError, TypeError, LookupError, ArithmeticError, SyntaxError, tokenize.TokenError)  # of numpy's headers
_UNPACKING = (EOFError, RuntimeError, zlib.error, lzma.LZMAError, struct.error)


def read_npz(path: str | PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of an .npz. Raises InputError when it is none, holds pickled objects (which are never loaded), or more than fits."""
    require_regular(path, InputError)
    try:
        with zipfile.ZipFile(path) as archive:
            _require_room(archive)
            return {info.filename.removesuffix(_SUFFIX): _array(archive, info) for info in archive.infolist()}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError as error:
        raise InputError(f"{path}: cannot be read as .npz: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read as .npz: {error.strerror or error}") from None
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: cannot be read as .npz: {_no_zip(path) or error}") from None
    except (*_PARSING, *_UNPACKING) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path}: cannot be read as .npz: {reason}") from None


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    name = info.filename
    with archive.open(info) as stream:
        try:
            shape, fortran, dtype, header_bytes = _header(stream, name)
        except MemoryError:  # what Python's parser says of one that is nested too deep
            raise InputError(f"{name}: its header cannot be read") from None
        count = math.prod(shape)
        if dtype.hasobject:
            raise InputError(f"{name}: Object arrays are pickles, which are not loaded")
        if not dtype.itemsize:
            raise InputError(f"{name}: {dtype} is no type of numbers")
        if count * dtype.itemsize != info.file_size - header_bytes:
            found = max(info.file_size - header_bytes, 0)
            raise InputError(f"{name}: declares {'x'.join(map(str, shape)) or 'one'} of {dtype}, and has {found} bytes for it")
        array = np.empty(count, dtype)
        if array.nbytes:
            _fill(stream, array.view(np.uint8).data, name)
    return array.reshape(shape[::-1]).transpose() if fortran else array.reshape(shape)


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether columns come first, dtype, and the header's length."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise InputError(f"{name}: is in version {version[0]}.{version[1]} of numpy's format, 1.0 and 2.0 are read")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if any(size < 0 for size in shape):
        raise InputError(f"{name}: declares a size below zero")
    return shape, fortran, dtype, stream.tell()


def _fill(stream: IO[bytes], memory: memoryview, name: str) -> None:
    done = 0
    while done < len(memory):
        part = stream.read(min(len(memory) - done, 1 << 20))
        if not part:
            raise InputError(f"{name}: was cut off")
        memory[done : done + len(part)] = part
        done += len(part)


def _require_room(archive: zipfile.ZipFile) -> None:
    """A file of 1 MB may unpack to 1 GB, and one of a few more to more than there is."""
    wanted = sum(info.file_size for info in archive.infolist())
    free = memory.available()
    if wanted > free:
        raise InputError(f"it unpacks to {wanted / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free")


def _no_zip(path: str | PathLike[str]) -> str | None:
    """What a file is instead."""
    with open(path, "rb") as stream:  # noqa: PTH123
        beginning = stream.read(6)
    if beginning == b"\x93NUMPY":
        return "one array without a name; write it with numpy.savez(path, input_name=array)"
    return "it is no zip of arrays" if beginning[:2] != b"PK" else None
