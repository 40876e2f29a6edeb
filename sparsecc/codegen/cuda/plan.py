"""What runs a layer on a GPU, as data: for numbers of tokens the code, for each architecture. No TVM, and nothing is loaded here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import AttentionSpec, BlockAttentionSpec, LinearSpec, NormSpec


@dataclass(frozen=True)
class Binary:
    """One kernel for one architecture. name: of its function.  arguments: names of its parameters.  source: CUDA C++, for an architecture
    that nobody has built it for."""

    name: str
    arguments: tuple[str, ...]
    geometry: Geometry
    cubin: bytes = field(repr=False)
    source: str = field(repr=False)


EVERY = 2**31 - 1


@dataclass(frozen=True)
class Step:
    """For up to so many tokens, `EVERY` for any number. kernel, knobs: how reports name it.  binaries: by architecture; none where the
    weight is unpacked first and multiplied by cuBLAS."""

    tokens: int
    kernel: str
    knobs: str
    binaries: Mapping[str, Binary] = field(default_factory=dict[str, Binary])


@dataclass(frozen=True)
class Plan:
    """spec: of the layer, if linear for any number of tokens.  parts: of the packed weight (`blob`), with the bytes before each.
    steps: for ascending numbers of tokens.  expand: unpacks the weight, for more tokens than the last step's. Attention and norms have one
    step, and neither parts nor expand."""

    spec: LinearSpec | AttentionSpec | BlockAttentionSpec | NormSpec
    parts: Mapping[str, int]
    steps: tuple[Step, ...]
    expand: Mapping[str, Binary]

    @cached_property
    def key(self) -> str:
        """Tells plans apart by all that they do: what an operator is called with."""
        digest = hashlib.sha256(json.dumps(described(self), sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.spec.name} {digest}"

    @property
    def binaries(self) -> list[tuple[str, Binary]]:
        """All, each with its architecture."""
        return [pair for binaries in (*(step.binaries for step in self.steps), self.expand) for pair in binaries.items()]


_KINDS: dict[type[Any], str] = {
    LinearSpec: "linear",
    AttentionSpec: "attention",
    BlockAttentionSpec: "block attention",
    NormSpec: "rms norm",
}


def described(plan: Plan) -> dict[str, Any]:
    """As JSON; code by its SHA-256."""
    return {
        **({} if isinstance(plan.spec, LinearSpec) else {"layer": _KINDS[type(plan.spec)]}),
        "spec": asdict(plan.spec),
        "parts": dict(plan.parts),
        "steps": [
            {"tokens": step.tokens, "kernel": step.kernel, "knobs": step.knobs, "binaries": _described(step.binaries)}
            for step in plan.steps
        ],
        "expand": _described(plan.expand),
    }


def read(data: Mapping[str, Any], codes: Mapping[str, bytes]) -> Plan:
    """Inverse of `described`. codes: cubins and sources by their SHA-256. Raises LookupError, TypeError or ValueError for anything else."""
    kinds = {kind: spec for spec, kind in _KINDS.items()}
    return Plan(
        kinds[data.get("layer", "linear")](**data["spec"]),
        dict(data["parts"]),
        tuple(Step(step["tokens"], step["kernel"], step["knobs"], _read(step["binaries"], codes)) for step in data["steps"]),
        _read(data["expand"], codes),
    )


def digest(code: bytes) -> str:
    return hashlib.sha256(code).hexdigest()


def _described(binaries: Mapping[str, Binary]) -> dict[str, Any]:
    return {
        arch: {
            "name": binary.name,
            "arguments": list(binary.arguments),
            "geometry": asdict(binary.geometry),
            "cubin": digest(binary.cubin),
            "source": digest(binary.source.encode()),
        }
        for arch, binary in binaries.items()
    }


def _read(data: Mapping[str, Any], codes: Mapping[str, bytes]) -> dict[str, Binary]:
    return {
        arch: Binary(
            entry["name"],
            tuple(entry["arguments"]),
            Geometry.read(entry["geometry"]),
            codes[entry["cubin"]],
            codes[entry["source"]].decode(),
        )
        for arch, entry in data.items()
    }
