"""A model compiled for a GPU: a torch module whose packed layers run on our kernels, and the file that it is saved in.

The file is a zip as `artifact` writes them: `program.json` (see `program`), `weights.safetensors`, `report.json`, a member for each cubin
and each source, named by its SHA-256, and `manifest.json`, which says which plan uses which.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from os import PathLike
from typing import IO, Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.fx._pytree import tree_flatten_spec

from sparsecc.codegen.cuda import alone, flex, launched, operator
from sparsecc.codegen.cuda.arch import serves, spelt
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.plan import Plan, described, digest, read
from sparsecc.codegen.cuda.target import Target, capability, no_gpu
from sparsecc.errors import ArtifactError, InputError, UserError
from sparsecc.files import replacing
from sparsecc.graph.base import TensorSpec
from sparsecc.graph.fx import state
from sparsecc.graph.inputs import as_array, as_tensor
from sparsecc.report.base import Report
from sparsecc.runtime import program as programs
from sparsecc.runtime import weights as weight_files
from sparsecc.runtime.archive import MANIFEST, add, dumped, opened, read_json, specs, verified

FORMAT = 1  # raised when an older sparsecc could misread the file
KIND = "cuda"
OPERATORS = (operator.linear_cuda, *(kind.operator for kind in alone.KINDS.values()), flex.flex_attention_cuda)  # that programs call
_PROGRAM, _WEIGHTS, _REPORT = "program.json", "weights.safetensors", "report.json"


class CompiledModule(nn.Module):
    """A torch module for a GPU, called as the model that it came from, with tensors that lie where its weights do.

    CUDA graphs capture it once it was called, `torch.compile` takes it, several streams and threads may call it. Of a model that writes
    its own buffers (a cache of keys and values) it has buffers of its own. It has no gradients. Where attention is dense every so many
    calls, it counts them in a buffer for each attention: see `restart`.

    inputs, outputs: names, types and shapes.  target: what the kernels are for.  report: what was done, and what was measured.
    """

    def __init__(
        self, program: GraphModule, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], target: Target, report: Report,
        checks: bool = False,
    ) -> None:  # fmt: skip
        """checks: compare what it is called with to `inputs`; a program that was just traced does it itself."""
        super().__init__()
        operator.retarget(program.graph, operator.linear)
        program.recompile()
        self.program = program
        self.inputs, self.outputs, self.target, self.report = tuple(inputs), tuple(outputs), target, report
        self._checks, self._in_spec = checks, program.graph._codegen.pytree_info.in_spec  # type: ignore[attr-defined]
        self.requires_grad_(False)
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._checks and not torch.compiler.is_compiling():
            _check_inputs(self.inputs, tree_flatten_spec((args, kwargs), self._in_spec))
        return self.program(*args, **kwargs)

    def restart(self) -> None:
        """Count calls from the beginning, so that attention that is dense every so many calls is dense in the next one."""
        for counter in state.counters(self.program):
            counter.zero_()

    @property
    def plans(self) -> list[Plan]:
        """What its calls of kernels do, each once."""
        keys: list[Any] = [node.args[-1] for node in (*operator.calls(self.program.graph), *alone.calls(self.program.graph))]
        return [operator.plan_of(key) for key in dict.fromkeys(keys)]

    def load_kernels(self) -> None:
        """On the device where the weights are; a CUDA graph can be captured afterwards, without a call before."""
        device = next((tensor.device for tensor in (*self.parameters(), *self.buffers())), None)
        if device is not None and device.type == "cuda":
            for plan in self.plans:
                load = operator.prepare if isinstance(plan.spec, LinearSpec) else launched.on
                load(plan.key, device)

    def save(self, path: str | PathLike[str]) -> None:
        """Write one file that `sparsecc.load` reads, atomically, with buffers as they are now: save a model with a cache before its first
        call. Raises UserError when the model cannot be written."""
        data, tensors = programs.to_data(self.program, {operator.linear: operator.linear_cuda})
        arrays = {name: as_array(tensor) for name, tensor in tensors.items()}
        plans = {plan.key: plan for plan in self.plans}
        codes = {
            digest(code): code for plan in plans.values() for _, binary in plan.binaries for code in (binary.cubin, binary.source.encode())
        }
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            hashes = {_WEIGHTS: add(archive, _WEIGHTS, lambda stream: weight_files.write(stream, arrays))}
            members = {f"kernels/{name}": code for name, code in codes.items()}
            members |= {_PROGRAM: json.dumps(data).encode(), _REPORT: self.report.to_json().encode()}
            for name, content in members.items():
                hashes[name] = add(archive, name, lambda stream, content=content: stream.write(content))
            manifest = {
                "sparsecc": self.report.sparsecc,
                "kind": KIND,
                "format": FORMAT,
                "target": asdict(self.target),
                "inputs": [asdict(spec) for spec in self.inputs],
                "outputs": [asdict(spec) for spec in self.outputs],
                "plans": {key: described(plan) for key, plan in plans.items()},
                "sha256": hashes,
            }
            add(archive, MANIFEST, lambda stream: stream.write(dumped(manifest)))

    def __reduce__(self) -> Any:
        raise TypeError("a compiled module is not pickled; save it, and load it with sparsecc.load")


def load(path: str | PathLike[str]) -> CompiledModule:
    """What `CompiledModule.save` wrote, on the current GPU; every byte is checked. Needs no compiler where the file has code for this GPU.

    Raises UserError where there is no GPU, ArtifactError for a damaged file and for one that has nothing for this GPU.
    """
    missing = no_gpu()
    if missing is not None:
        raise UserError(f"{path}: is compiled for GPUs, but {missing}")
    with opened(path) as (archive, stream):
        module = _load(archive, stream, torch.device("cuda", torch.cuda.current_device()))
    module.load_kernels()
    return module


def read_module(path: str | PathLike[str]) -> CompiledModule:
    """As `load`, on the CPU, where kernels are replaced by what they mean: for looking at it on a machine without a GPU."""
    with opened(path) as (archive, stream):
        return _load(archive, stream, torch.device("cpu"))


def _load(archive: zipfile.ZipFile, stream: IO[bytes], device: torch.device) -> CompiledModule:
    manifest = read_json(archive, stream, MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise ArtifactError("is not compiled for a GPU")
    if manifest["format"] != FORMAT:
        raise ArtifactError(f"in format {manifest['format']} of sparsecc {manifest['sparsecc']}, this one reads {FORMAT}; compile it again")
    target = Target(**(manifest["target"] | {"arches": tuple(manifest["target"]["arches"])}))
    if device.type == "cuda":
        _check_gpu(target, capability())
    members = {name: verified(archive, stream, name, digest) for name, digest in manifest["sha256"].items()}
    codes = {name.removeprefix("kernels/"): bytes(data) for name, data in members.items() if name.startswith("kernels/")}
    for key, data in manifest["plans"].items():
        if operator.register(read(data, codes)) != key:
            raise ArtifactError(f"damaged: plan {key!r} is another one")
    arrays = weight_files.read(members[_WEIGHTS])
    tensors = {name: as_tensor(array, name).to(device) for name, array in arrays.items()}
    module = programs.from_data(json.loads(bytes(members[_PROGRAM])), tensors, device)
    report = Report.from_dict(json.loads(bytes(members[_REPORT])))
    return CompiledModule(module, specs(manifest["inputs"]), specs(manifest["outputs"]), target, report, checks=True)


def _check_inputs(specs: Sequence[TensorSpec], given: Sequence[Any]) -> None:
    """Raises InputError for tensors of other types and shapes; a name in a shape stands for one size in all of them."""
    sizes: dict[str, int] = {}
    for spec, tensor in zip(specs, (value for value in given if isinstance(value, torch.Tensor)), strict=False):
        if spec.dtype != str(tensor.dtype).removeprefix("torch."):
            raise InputError(f"input {spec.name!r} is {tensor.dtype}, the model takes {spec.dtype}")
        fits = len(spec.shape) == tensor.dim() and all(
            size == (wanted if isinstance(wanted, int) else sizes.setdefault(wanted, size))
            for wanted, size in zip(spec.shape, tensor.shape, strict=True)
        )
        if not fits:
            shape = ", ".join(map(str, spec.shape))
            raise InputError(f"input {spec.name!r} has shape {tuple(tensor.shape)}, the model was compiled for ({shape})")


def _check_gpu(target: Target, here: tuple[int, int]) -> None:
    if not serves(target.arches, here):
        name = spelt(here)
        raise ArtifactError(f"compiled for {', '.join(target.arches)}, this GPU is {name}; compile it with target cuda:{name}")
