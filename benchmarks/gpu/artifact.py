"""An artifact that was compiled without a GPU against the same model compiled on one: both have to write the same text.

    python -m benchmarks.gpu.artifact --build DIR      # anywhere: compiles for sm_90a, saves the artifacts and the built kernels
    python -m benchmarks.gpu.artifact DIR              # on the GPU

The second command loads the artifacts while no compiler can be imported, and compiles afterwards, with the kernels of DIR. Models: the
trained small GPT in 2:4, one character after the other, and a small Llama with random weights in int4. Writes
benchmarks/results/gpu-artifact.json and .md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import sparsecc
from benchmarks.results import markdown_table, write
from models.decoders import gpt_small, llama
from sparsecc.runtime.module import CompiledModule, load

_PROMPT, _STEPS = "A function is", 48
_TOLERANCE = 0.02  # of the largest logit: each machine chooses its kernels, which add up in their own order


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], torch.nn.Module]
    inputs: tuple[torch.Tensor, ...]
    recipe: dict[str, Any]

    def compile(self, target: str, folder: Path) -> CompiledModule:
        """With the weights of `folder`: random ones differ from one version of torch to the next."""
        module = self.build()
        module.load_state_dict(torch.load(folder / f"{self.name}.pt", weights_only=True))
        program = torch.export.export(module, self.inputs)
        made = sparsecc.compile(program, self.inputs, recipe=self.recipe, target=target, cache=folder / "kernels")
        assert isinstance(made, CompiledModule)
        return made


def _cases(device: str) -> list[Case]:
    quantized = {"passes": [{"quantize": {"dtype": "int4", "targets": [r"re:(blocks\..*|head)"]}}]}
    gpt_inputs = tuple(x.to(device) for x in gpt_small.example_inputs())
    return [
        Case("small GPT with 2:4", lambda: gpt_small.build().to(device), gpt_inputs, gpt_small.recipe()),
        Case("small Llama with int4", lambda: llama.build("tiny").to(device), llama.example_inputs(device), quantized),
    ]


def build(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for case in _cases("cpu"):
        torch.save(case.build().state_dict(), folder / f"{case.name}.pt")
        case.compile("cuda:sm_90a", folder).save(folder / f"{case.name}.sparsecc")


def check(folder: Path) -> list[dict[str, Any]]:
    """A row for each case."""
    cases = _cases("cuda")
    with _NoCompiler():
        loaded = [load(folder / f"{case.name}.sparsecc") for case in cases]
        written = [_logits(module) for module in loaded]
        text = gpt_small.generate(load(folder / f"{cases[0].name}.sparsecc"), _PROMPT, _STEPS, "cuda")
    rows = []
    for case, found in zip(cases, written, strict=True):
        expected = _logits(case.compile("cuda", folder))
        off = float((found - expected).abs().max() / expected.abs().max())
        same = bool((found.argmax(-1) == expected.argmax(-1)).all())
        rows.append({"name": case.name, "max_rel": off, "same_tokens": same, "right": same and off < _TOLERANCE})
    there = gpt_small.generate(cases[0].compile("cuda", folder), _PROMPT, _STEPS, "cuda")
    rows[0] |= {"text": text, "right": rows[0]["right"] and text == there}
    return rows


def _logits(step: Callable[..., torch.Tensor]) -> torch.Tensor:
    """[steps, vocabulary] of the same tokens one after the other, from an empty cache."""
    with torch.no_grad():
        found = [step(torch.tensor([[3 + n % 60]], device="cuda"), torch.tensor([n], device="cuda"))[0, -1].float() for n in range(_STEPS)]
    return torch.stack(found)


class _NoCompiler:
    """Neither TVM nor NVRTC can be imported inside."""

    names = ("tvm", "tvm_ffi", "cuda.bindings.nvrtc")

    def __enter__(self) -> None:
        here = [name for name in self.names if sys.modules.get(name) is not None]
        if here:
            raise RuntimeError(f"{here[0]} was imported before an artifact was loaded")
        sys.modules.update(dict.fromkeys(self.names))  # type: ignore[arg-type]

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            del sys.modules[name]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--build", action="store_true")
    options = parser.parse_args()
    if options.build:
        build(options.folder)
        return 0
    rows = check(options.folder)
    lines = [
        [row["name"], f"{row['max_rel']:.0e}", "yes" if row["same_tokens"] else "no", "reached" if row["right"] else "missed"]
        for row in rows
    ]
    table = markdown_table(["artifact", "largest difference of the logits", "same tokens", ""], lines)
    write("gpu-artifact", {"device": torch.cuda.get_device_name(), "rows": rows}, f"{table}\n\n{torch.cuda.get_device_name()}.")
    print(table, rows[0]["text"], sep="\n")
    return 0 if all(row["right"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
