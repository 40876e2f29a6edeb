"""What code is generated for on GPUs: architectures, and the device here when they are its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsecc.codegen import target as targets
from sparsecc.codegen.cuda.arch import arch, nearest, runs_on, spelt
from sparsecc.errors import UserError


@dataclass(frozen=True)
class Target(targets.Target):
    """arches: names of those in the table.  device: of the GPU here, "" when the target was named by architectures."""

    arches: tuple[str, ...]
    device: str = ""
    threads: int = 1  # of the host, which only launches
    backend: ClassVar[str] = "cuda"

    @property
    def name(self) -> str:
        return self.device or ",".join(self.arches)

    @property
    def cannot_run(self) -> str | None:
        missing = no_gpu()
        if missing is not None:
            return missing
        here = capability()
        return None if runs_on(self.arches, here) else f"compiled for {', '.join(self.arches)}, this GPU is {spelt(here)}"

    @property
    def is_here(self) -> bool:
        return self.cannot_run is None


def parse(text: str, threads: int) -> Target:
    """`cuda`: the GPU here; `cuda:sm_90a,sm_80`: architectures, with a GPU or without. Raises UserError for anything else."""
    _, _, names = text.partition(":")
    if names:
        return Target(tuple(dict.fromkeys(arch(name.strip()).name for name in names.split(","))))
    missing = no_gpu()
    if missing is not None:
        raise UserError(f"target 'cuda' is the GPU of this machine, but {missing}; name what to compile for, as cuda:sm_90a")
    here, row = capability(), nearest(capability())
    if row is None:
        raise UserError(f"target 'cuda': there are no kernels for this GPU, {device_name()}, which is {spelt(here)}")
    return Target((row.name,), device_name())


def no_gpu() -> str | None:
    """Why nothing can run on a GPU here. None when it can."""
    import torch

    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) was built without CUDA"
    return "torch finds no GPU and no driver here"


def capability() -> tuple[int, int]:
    import torch

    return torch.cuda.get_device_capability()


def device_name() -> str:
    import torch

    return torch.cuda.get_device_name()
