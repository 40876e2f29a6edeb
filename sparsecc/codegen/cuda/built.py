"""Kernels once they are built: looked up in a folder, or generated and put there. What lies there needs neither TVM nor NVRTC."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.kernels import kernel_of, module_of
from sparsecc.codegen.cuda.plan import Binary
from sparsecc.errors import UserError
from sparsecc.files import replacing

_PACKAGE = r"sparsecc\.codegen\.cuda\."
_FOLDER = Path(__file__).parent
_SUPPORT = ("arch", "blob", "kernel", "nvrtc", "pack", "pack_groups", "ptx_rows", "streams")  # besides kernels and pieces


@dataclass(frozen=True)
class Builder:
    """folder: where built kernels lie, None for nowhere."""

    folder: Path | None = None

    def linear(self, kernel: str, spec: LinearSpec, knobs: Any, arch: Arch) -> Binary:
        """Raises UserError where it has to be built and the packages for that are missing."""
        row = module_of(kernel).KERNEL
        return self._binary(kernel, (spec, knobs), arch, lambda: row.build(spec, knobs, arch), lambda: row.geometry(spec, knobs, arch))

    def expand(self, spec: LinearSpec, arch: Arch) -> Binary:
        """The kernel that unpacks weights of the spec's form. Raises as `linear` does."""
        name, spec = kernel_of(spec.form).expand, replace(spec, tokens=0, bias=False, activation="", residual=False)
        module = module_of(name)
        return self._binary(name, (spec,), arch, lambda: module.build(spec, arch), lambda: module.geometry(spec, arch))

    def single(self, kernel: str, spec: Any, knobs: Any, arch: Arch) -> Binary:
        """A kernel that is no layer's. Raises as `linear` does."""
        module = module_of(kernel)
        return self._binary(
            kernel, (spec, knobs), arch, lambda: module.build(spec, knobs, arch), lambda: module.geometry(spec, knobs, arch)
        )

    def _binary(self, kernel: str, what: tuple[Any, ...], arch: Arch, function: Any, geometry: Any) -> Binary:
        key = hashlib.sha256(repr((kernel, version(kernel), what, arch)).encode()).hexdigest()[:32]
        found = self._found(key)
        if found is None:
            from sparsecc.codegen.cuda import nvrtc

            built = nvrtc.build(function(), arch)
            found = Binary(built.name, built.arguments, geometry(), built.cubin, built.source)
            self._keep(key, found)
        return found

    def _found(self, key: str) -> Binary | None:
        if self.folder is None:
            return None
        try:
            data = json.loads((self.folder / f"{key}.json").read_text())
            cubin = (self.folder / f"{key}.cubin").read_bytes()
            return Binary(data["name"], tuple(data["arguments"]), Geometry.read(data["geometry"]), cubin, data["source"])
        except (OSError, ValueError, LookupError, TypeError):
            return None  # not there, or half written by another version: it is built again

    def _keep(self, key: str, binary: Binary) -> None:
        if self.folder is None:
            return
        data = asdict(binary)
        cubin = data.pop("cubin")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, content in ((f"{key}.cubin", cubin), (f"{key}.json", json.dumps(data).encode())):
                with replacing(self.folder / name) as temporary:
                    temporary.write_bytes(content)
        except (OSError, UserError) as error:
            warnings.warn(f"built kernels are not kept, and will be built again: {error}; name another folder as cache", stacklevel=2)


@cache
def version(kernel: str) -> str:
    """A digest of the sources that a kernel's code and the layout of its weights depend on: its file, the kernels' that this imports, all
    pieces, and what lays weights out."""
    digest = hashlib.sha256()
    for path in (*_kernels(kernel), *sorted((_FOLDER / "pieces").glob("*.py")), *(_FOLDER / f"{name}.py" for name in _SUPPORT)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _kernels(kernel: str) -> list[Path]:
    """The files of a kernel and of those in the same folder that it imports."""
    found, waiting = set(), [kernel]
    while waiting:
        path = _FOLDER / "kernels" / f"{waiting.pop()}.py"
        if path not in found:
            found.add(path)
            waiting += re.findall(rf"^from {_PACKAGE}kernels\.(\w+) import", path.read_text(), re.MULTILINE)
    return sorted(found)
