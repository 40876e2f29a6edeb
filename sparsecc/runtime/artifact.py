"""A compiled model as one file.

An uncompressed zip: `weights.safetensors`, `lib_N.so` for each specialization, `report.json`, and `manifest.json` with everything else
and the SHA-256 of every other member. No pickle.
"""

from __future__ import annotations

import importlib.metadata
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from typing import IO, Any

import numpy as np

from sparsecc.codegen import target as targets
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.cpu.threads import wanted
from sparsecc.codegen.library import KernelCall
from sparsecc.errors import ArtifactError, UserError
from sparsecc.files import replacing
from sparsecc.graph.base import TensorSpec
from sparsecc.report.base import Report
from sparsecc.runtime import weights as weight_files
from sparsecc.runtime.archive import MANIFEST, add, dumped, opened, read_json, specs, verified
from sparsecc.runtime.code import Program, Specialization
from sparsecc.runtime.outputs import check as check_structure

FORMAT = 2  # raised when an older sparsecc could misread the file
_WEIGHTS, _REPORT = "weights.safetensors", "report.json"


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
        hashes = {_WEIGHTS: add(archive, _WEIGHTS, lambda stream: weight_files.write(stream, contents.weights))}
        for name, data in libraries.items():
            hashes[name] = add(archive, name, lambda stream, data=data: stream.write(data))
        report = contents.report.to_json().encode()
        hashes[_REPORT] = add(archive, _REPORT, lambda stream: stream.write(report))
        manifest = dumped(_describe(contents, contents.target) | {"sha256": hashes})
        add(archive, MANIFEST, lambda stream: stream.write(manifest))


def load(path: str | PathLike[str], threads: int | None = None) -> Contents:
    """Read what `save` wrote, checking every byte, the versions and the CPU.  threads: None means as many as it was compiled for.

    Raises ArtifactError when the file is no artifact, is damaged, or was made by another version or for another CPU.
    """
    wanted(threads, 1)
    with opened(path) as (archive, stream):
        return _load(archive, stream, threads)


def read_report(path: str | PathLike[str]) -> Report:
    """The report inside an artifact, of whatever version and for whatever CPU."""
    with opened(path) as (archive, stream):
        return Report.from_dict(read_json(archive, stream, _REPORT))


def _load(archive: zipfile.ZipFile, stream: IO[bytes], threads: int | None) -> Contents:
    manifest = read_json(archive, stream, MANIFEST)
    _check_versions(manifest)
    target = _target(manifest)
    _check_cpu(target)
    members = {name: verified(archive, stream, name, digest) for name, digest in manifest["sha256"].items()}
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
        inputs=specs(manifest["inputs"]),
        outputs=specs(manifest["outputs"]),
        target=replace(target, threads=wanted(threads, target.threads)),
        report=report,
        structure=manifest["structure"],
        specializations=specializations,
        weights=weights,
    )


def _specialization(entry: Mapping[str, Any], members: Mapping[str, memoryview]) -> Specialization:
    return Specialization(
        inputs=specs(entry["inputs"]),
        outputs=specs(entry["outputs"]),
        limits=entry["limits"],
        weights=tuple(entry["weights"]),
        program=Program.from_bytes(bytes(members[entry["library"]])),
        divisors=frozenset(entry.get("divisors", ())),
        regions=entry.get("regions", {}),
        calls=tuple(KernelCall(symbol, site, tuple(readers)) for symbol, site, readers in entry.get("calls", ())),
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
                "calls": [[call.symbol, call.site, list(call.readers)] for call in entry.calls],
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
