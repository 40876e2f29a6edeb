"""The zip files that artifacts are: members stored as they are and aligned, each held against its SHA-256 when it is read.

A member is read, not mapped: whoever writes into a mapped file (`cp`, `rsync --inplace`) changes the weights of the models that run from
it, and whoever cuts it off ends their processes with SIGBUS. What is computed with is what was checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np

from sparsecc.codegen.alignment import ALIGNMENT, aligned_empty
from sparsecc.errors import ArtifactError, UserError
from sparsecc.files import require_regular
from sparsecc.graph.base import TensorSpec

MANIFEST = "manifest.json"
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ZIP64_EXTRA_BYTES = 20
_PADDING_ID = 0xD935  # the extra field that Android's zipalign pads with
_DAMAGE = (LookupError, ArithmeticError, AttributeError, TypeError, ValueError, EOFError, RuntimeError, struct.error)  # zipfile's and ours
_CHUNK_BYTES = 1 << 20  # what is checked while it is still in the cache


@contextmanager
def opened(path: str | PathLike[str]) -> Iterator[tuple[zipfile.ZipFile, IO[bytes]]]:
    """The archive. What goes wrong while it is read becomes an error that names the file."""
    path = Path(path)
    require_regular(path)
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            yield archive, stream
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except zipfile.BadZipFile as error:
        raise ArtifactError(f"{path}: damaged, or no sparsecc artifact: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise ArtifactError(f"{path}: damaged: {type(error).__name__} {error}") from error


def dumped(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def specs(entries: Iterable[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    """Of inputs or outputs, as a manifest has them."""
    return tuple(TensorSpec(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in entries)


def kind(path: str | PathLike[str]) -> str:
    """What an artifact is for: "cuda", or "cpu". Raises UserError where nothing can be read, ArtifactError for what is no artifact."""
    with opened(path) as (archive, stream):
        manifest = read_json(archive, stream, MANIFEST)
        return str(manifest.get("kind", "cpu")) if isinstance(manifest, dict) else "cpu"


def add(archive: zipfile.ZipFile, name: str, fill: Callable[[Any], Any]) -> str:
    """Store one member, its data aligned in the file; returns its SHA-256."""
    info = zipfile.ZipInfo(name)  # dated 1980, so that equal models make equal files
    header_bytes = _LOCAL_HEADER.size + len(name) + _ZIP64_EXTRA_BYTES + 4
    padding = -((archive.fp.tell() if archive.fp else 0) + header_bytes) % ALIGNMENT
    info.extra = struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=True) as stream:
        hashing = _Hashing(stream)
        fill(hashing)
    return hashing.hash.hexdigest()


class _Hashing:
    """A stream that hashes what passes through it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.hash = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        self.hash.update(data)
        self.stream.write(data)


def verified(archive: zipfile.ZipFile, stream: IO[bytes], name: str, digest: str) -> memoryview:
    """A member, held against what the manifest says of it."""
    hashing = hashlib.sha256()
    data = _read(archive, stream, name, hashing.update)
    if hashing.hexdigest() != digest:
        raise ArtifactError(f"{name} in it is damaged: its SHA-256 differs from the manifest's")
    return data


def read_json(archive: zipfile.ZipFile, stream: IO[bytes], name: str) -> Any:
    """What a member says that is read before the manifest, or is the manifest: held against the archive's own checksum."""
    checksum = 0

    def see(chunk: memoryview) -> None:
        nonlocal checksum
        checksum = zlib.crc32(chunk, checksum)

    data = _read(archive, stream, name, see)
    if checksum != archive.getinfo(name).CRC:
        raise ArtifactError(f"{name} in it is damaged: its checksum differs from the archive's")
    return json.loads(bytes(data))


def _read(archive: zipfile.ZipFile, stream: IO[bytes], name: str, see: Callable[[memoryview], Any]) -> memoryview:
    """A member, in aligned memory of its own (of which not more is taken than the file is long).  see: is shown each piece."""
    info = archive.getinfo(name)
    stream.seek(info.header_offset)
    fields = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    start = info.header_offset + _LOCAL_HEADER.size + fields[9] + fields[10]
    file_bytes = os.fstat(stream.fileno()).st_size
    if fields[0] != b"PK\x03\x04" or info.compress_type != zipfile.ZIP_STORED or start + info.file_size > file_bytes:
        raise ArtifactError(f"{name} in it is damaged")
    data = memoryview(aligned_empty((info.file_size,), np.dtype(np.uint8)).data)
    stream.seek(start)
    for begin in range(0, len(data), _CHUNK_BYTES):
        chunk = data[begin : begin + _CHUNK_BYTES]
        if stream.readinto(chunk) != len(chunk):  # type: ignore[attr-defined]
            raise ArtifactError(f"{name} in it was cut off while it was read")
        see(chunk)
    return data
