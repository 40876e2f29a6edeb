"""What is measured for a GPU: a kernel, by the name of its file, for one layer and number of tokens."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sparsecc.codegen.cuda.kernel import LinearSpec


@dataclass(frozen=True)
class Task:
    """spec: with the kernel's number of tokens."""

    kernel: str
    spec: LinearSpec

    def __str__(self) -> str:
        spec = self.spec
        flags = [field.name for field in fields(spec) if getattr(spec, field.name) is True]
        then = " ".join(filter(None, (spec.activation, *flags)))
        return f"{self.kernel} {spec.form} {spec.rows}×{spec.depth} on {spec.tokens} {spec.dtype} {then}".strip()
