"""A compiled model as one file.

An uncompressed zip: `weights.safetensors`, `lib_N.so` for each specialization, `report.json`, and `manifest.json` with everything else
and the SHA-256 of every other member. No pickle.

It is read, not mapped: whoever writes into a mapped file (`cp`, `rsync --inplace`) changes the weights of the models that run from it, and
whoever cuts it off ends their processes with SIGBUS. What is computed with is what was checked.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np

from sparsecc.codegen import target as targets
from sparsecc.codegen.alignment import ALIGNMENT, aligned_empty
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.cpu.threads import wanted
from sparsecc.errors import ArtifactError, UserError
from sparsecc.files import replacing, require_regular
from sparsecc.graph.base import TensorSpec
from sparsecc.report.base import Report
from sparsecc.runtime import weights as weight_files
from sparsecc.runtime.code import Program, Specialization
from sparsecc.runtime.outputs import check as check_structure

FORMAT = 2  # raised when an older sparsecc could misread the file
_WEIGHTS, _REPORT, _MANIFEST = "weights.safetensors", "report.json", "manifest.json"
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ZIP64_EXTRA_BYTES = 20
_PADDING_ID = 0xD935  # the extra field that Android's zipalign pads with
_DAMAGE = (LookupError, ArithmeticError, AttributeError, TypeError, ValueError, EOFError, RuntimeError, struct.error)  # zipfile's and ours
_CHUNK_BYTES = 1 << 20  # what is checked while it is still in the cache


@dataclass(frozen=True)
class Contents:
    """A compiled model as it is at one moment. weights: by key, those of its specializations.  The rest as in `Compiled`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    target: targets.Target
    report: Report
    structure: Any
    specializations: Sequence[Specialization]
    weights: Mapping[str, np.ndarray]


def save(contents: Contents, path: str | PathLike[str]) -> None:
    """Write it, atomically. Raises UserError when it cannot be written or linked."""
    if not isinstance(contents.target, Target):
        raise UserError(f"{path}: only code for CPUs can be saved; this is for {contents.target.backend!r}")
    libraries = {f"lib_{number}.so": entry.program.to_bytes() for number, entry in enumerate(contents.specializations)}
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        hashes = {_WEIGHTS: _add(archive, _WEIGHTS, lambda stream: weight_files.write(stream, contents.weights))}
        for name, data in libraries.items():
            hashes[name] = _add(archive, name, lambda stream, data=data: stream.write(data))
        report = contents.report.to_json().encode()
        hashes[_REPORT] = _add(archive, _REPORT, lambda stream: stream.write(report))
        manifest = _dump(_describe(contents, contents.target) | {"sha256": hashes})
        _add(archive, _MANIFEST, lambda stream: stream.write(manifest))


def load(path: str | PathLike[str], threads: int | None = None) -> Contents:
    """Read what `save` wrote, checking every byte, the versions and the CPU.  threads: None means as many as it was compiled for.

    Raises ArtifactError when the file is no artifact, is damaged, or was made by another version or for another CPU.
    """
    wanted(threads, 1)
    with _opened(path) as (archive, stream):
        return _load(archive, stream, threads)


def read_report(path: str | PathLike[str]) -> Report:
    """The report inside an artifact, of whatever version and for whatever CPU."""
    with _opened(path) as (archive, stream):
        return Report.from_dict(_json(archive, stream, _REPORT))


@contextmanager
def _opened(path: str | PathLike[str]) -> Iterator[tuple[zipfile.ZipFile, IO[bytes]]]:
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


def _load(archive: zipfile.ZipFile, stream: IO[bytes], threads: int | None) -> Contents:
    manifest = _json(archive, stream, _MANIFEST)
    _check_versions(manifest)
    target = _target(manifest)
    _check_cpu(target)
    members = {name: _verified(archive, stream, name, digest) for name, digest in manifest["sha256"].items()}
    check_structure(manifest["structure"], len(manifest["outputs"]))
    report = Report.from_dict(json.loads(bytes(members[_REPORT])))
    weights = weight_files.read(members[_WEIGHTS])
    if not manifest["specializations"]:
        raise ArtifactError("holds no compiled code")
    specializations = [_specialization(entry, members) for entry in manifest["specializations"]]
    lost = [key for entry in specializations for key in entry.weights if key not in weights]
    if lost:
        raise ArtifactError(f"damaged: the weight {lost[0]!r} is missing")
    return Contents(
        inputs=_specs(manifest["inputs"]),
        outputs=_specs(manifest["outputs"]),
        target=replace(target, threads=wanted(threads, target.threads)),
        report=report,
        structure=manifest["structure"],
        specializations=specializations,
        weights=weights,
    )


def _specialization(entry: Mapping[str, Any], members: Mapping[str, memoryview]) -> Specialization:
    return Specialization(
        inputs=_specs(entry["inputs"]),
        outputs=_specs(entry["outputs"]),
        limits=entry["limits"],
        weights=tuple(entry["weights"]),
        program=Program.from_bytes(bytes(members[entry["library"]])),
        divisors=frozenset(entry.get("divisors", ())),
        regions=entry.get("regions", {}),
    )


def _target(manifest: Mapping[str, Any]) -> Target:
    try:
        return Target(**(manifest["target"] | {"features": tuple(manifest["target"]["features"])}))
    except TypeError as error:
        raise ArtifactError(f"its target cannot be read: {error}") from error


def _describe(contents: Contents, target: Target) -> dict[str, Any]:
    return {
        "sparsecc": contents.report.sparsecc,
        "format": FORMAT,
        "tvm": _tvm_version(),
        "target": asdict(target),
        "inputs": [asdict(spec) for spec in contents.inputs],
        "outputs": [asdict(spec) for spec in contents.outputs],
        "structure": contents.structure,
        "specializations": [
            {
                "inputs": [asdict(spec) for spec in entry.inputs],
                "outputs": [asdict(spec) for spec in entry.outputs],
                "limits": dict(entry.limits),
                "divisors": sorted(entry.divisors),
                "regions": dict(entry.regions),
                "library": f"lib_{number}.so",
                "weights": list(entry.weights),
            }
            for number, entry in enumerate(contents.specializations)
        ],
    }


def _check_versions(manifest: Any) -> None:
    if not isinstance(manifest, dict) or not {"sparsecc", "format", "tvm"} <= manifest.keys():
        raise ArtifactError("holds a manifest of something else")
    if manifest["format"] != FORMAT:
        raise ArtifactError(
            f"in artifact format {manifest['format']} of sparsecc {manifest['sparsecc']}, this one reads {FORMAT}; compile the model again"
        )
    if manifest["tvm"] != _tvm_version():
        raise ArtifactError(f"compiled with TVM {manifest['tvm']}, but TVM {_tvm_version()} is installed; compile the model again")


def _check_cpu(target: Target) -> None:
    reason = target.cannot_run
    if reason:
        raise ArtifactError(f"{reason}; compile the model here, or for a smaller target")


def _tvm_version() -> str:
    return importlib.metadata.version("apache-tvm")


def _specs(entries: list[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in entries)


def _dump(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _add(archive: zipfile.ZipFile, name: str, fill: Callable[[Any], Any]) -> str:
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


def _verified(archive: zipfile.ZipFile, stream: IO[bytes], name: str, digest: str) -> memoryview:
    """A member, held against what the manifest says of it."""
    hashing = hashlib.sha256()
    data = _read(archive, stream, name, hashing.update)
    if hashing.hexdigest() != digest:
        raise ArtifactError(f"{name} in it is damaged: its SHA-256 differs from the manifest's")
    return data


def _json(archive: zipfile.ZipFile, stream: IO[bytes], name: str) -> Any:
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
