"""Writing ONNX files: whatever happens, a file is the whole old model or the whole new one, and nobody else's data is touched."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from sparsecc.files import naming, only_one, replacing, take_place, temporary_folder

EMBED_LIMIT = 1_900_000_000  # bytes of weights; protobuf cannot write messages of 2 GiB
_SMALL = 1024  # bytes of weights that stay in the model in any case
_CHUNK_BYTES = 1 << 20
# What a file that names data may begin with: the fields of a ModelProto, or a character of its forms in text. Weights begin with others.
_BEGINNINGS = frozenset(b"\x08\x12\x1a\x22\x28\x32\x3a\x42\x72\xa2\xca\xd2{<i# \n")


def write(model: ir.Model, path: str | os.PathLike[str], external: bool | None = None) -> None:
    """Write the model under `path`; with its weights in `<name>.<digest>.data` beside it when `external`, or when they are too large to
    embed.

    The data's name is made of what is in it, and it is complete before the model takes its place: so two who write at once cannot mix
    their weights, and the same model makes the same files. Data that `write` made for `path` and that no model names any more goes;
    data under any other name stays, whatever the old model says. Raises UserError when the disk says no.
    """
    if external is None:
        external = sum(_nbytes(value) for value in model.graph.initializers.values()) > EMBED_LIMIT
    if external:
        _write_in_two(model, path)
        return
    with replacing(path) as fresh:
        ir.save(model, fresh, format="protobuf")
    with naming(path) as target, only_one(target.parent) as alone:
        _delete_unnamed(target, alone)


def _write_in_two(model: ir.Model, path: str | os.PathLike[str]) -> None:
    with naming(path) as target, temporary_folder(target) as folder:
        data, fresh = f"{target.name}.{_digest(model)}.data", folder / "model.onnx"
        ir.save(model, fresh, format="protobuf", external_data=data, size_threshold_bytes=_SMALL)
        with only_one(target.parent) as alone:  # else another's cleaning up finds data that no model names yet
            try:
                if (folder / data).exists():  # there may be small weights only
                    (folder / data).chmod(stat.S_IMODE((target if target.exists() else fresh).stat().st_mode))
                    take_place(folder / data, target.with_name(data))
                take_place(fresh, target)
            finally:
                _delete_unnamed(target, alone)


def _digest(model: ir.Model) -> str:
    """Of all weights, in their order."""
    digest = hashlib.sha256()
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                digest.update(f"{value.name} {value.const_value.dtype} {value.const_value.shape}".encode())
                digest.update(value.const_value.tobytes())
    return digest.hexdigest()[:16]


def _delete_unnamed(target: Path, alone: bool) -> None:
    """Delete data of the model under `target` that no model names: what it replaced read it, or a killed process had just put it there.

    alone: whether no other process can be about to name it.
    """
    ours = re.compile(re.escape(target.name) + r"\.[0-9a-f]{16}\.data")
    data = [file for file in target.parent.iterdir() if ours.fullmatch(file.name) and file.is_file() and not file.is_symlink()]
    if not data or not alone:
        return
    unnamed = {file.name.encode() for file in data}
    for model in (*_regular_files(target.parent), *_regular_files(target.parent.parent)):  # data may lie in a folder below the model
        if unnamed and model not in data:
            unnamed -= _named(model, unnamed)
    for name in unnamed:
        target.with_name(name.decode()).unlink(missing_ok=True)


def _regular_files(folder: Path) -> Iterator[Path]:
    try:
        yield from (Path(entry.path) for entry in os.scandir(folder) if entry.is_file())
    except PermissionError:
        return


def _named(file: Path, names: set[bytes]) -> set[bytes]:
    """Those of these names that stand in a file, whatever it is called; all of them when it cannot be read, and may be a model."""
    try:
        if file.stat().st_size >> 31:  # no protobuf is that large
            return set()
        with file.open("rb") as stream:
            return _found(names, iter(lambda: stream.read(_CHUNK_BYTES), b""))
    except FileNotFoundError:
        return set()
    except OSError:
        return names


def _found(names: set[bytes], chunks: Iterator[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    tail = next(chunks, b"")
    if tail[:1] not in (b"", *(bytes([value]) for value in _BEGINNINGS)):
        return found
    longest = max(map(len, names))
    while tail:
        chunk = next(chunks, b"")
        found |= {name for name in names - found if name in tail + chunk}
        tail = chunk and (tail + chunk)[-max(longest, len(chunk)) :]
    return found


def _nbytes(value: ir.Value) -> int:
    return value.const_value.nbytes if value.const_value is not None else 0
