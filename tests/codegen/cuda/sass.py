"""What a cubin consists of, as NVIDIA's disassembler shows it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import nvidia.cu13

_TOOLS = Path(next(iter(nvidia.cu13.__path__))) / "bin"


@dataclass(frozen=True)
class Sass:
    """instructions: how often each stands there, by its first words.  registers: of a thread.  spilled: bytes of local memory."""

    instructions: Counter[str]
    registers: int
    spilled: int

    def count(self, start: str) -> int:
        return sum(number for name, number in self.instructions.items() if name.startswith(start))


def sass(cubin: bytes) -> Sass:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text, usage = (
            subprocess.run([_TOOLS / tool, *flags, file.name], check=True, capture_output=True, text=True).stdout
            for tool, flags in (("nvdisasm", []), ("cuobjdump", ["-res-usage"]))
        )
    names = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", text, re.MULTILINE)
    registers, stack, local = (int(re.search(rf"{what}:(\d+)", usage)[1]) for what in ("REG", "STACK", "LOCAL"))  # type: ignore[index]
    return Sass(Counter(names), registers, stack + local)
