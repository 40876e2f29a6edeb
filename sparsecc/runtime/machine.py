"""What this machine can run."""

from __future__ import annotations

import platform

from sparsecc.codegen.cpu import target as targets
from sparsecc.codegen.cpu.target import Target


def cannot_run(target: Target) -> str | None:
    """Why code for a target must not run here: another architecture, or instructions that this CPU lacks. None when it may."""
    here = platform.machine().replace("arm64", "aarch64")
    if target.triple.split("-")[0].replace("arm64", "aarch64") != here:
        return f"compiled for {target.triple}, this machine is {here}"
    missing = sorted(set(target.features) - set(targets.detect(target.threads).features))
    return f"compiled for {target.cpu}, this CPU lacks {', '.join(missing)}" if missing else None
