"""One plan on a CPU and on a GPU: the same heads and blocks, and outputs that differ by rounding.

    python -m benchmarks.attention.one_plan --build DIR      # with TVM: chooses the plan, runs it on the CPU, builds the kernels
    python -m benchmarks.attention.one_plan DIR              # on the GPU

The model is `video_dit_small` with its trained weights, float32 on the CPU and float16 on the GPU. Rounding is what dense attention in
float16 differs by from dense attention in float32. Writes benchmarks/results/attention-plan.json and .md.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sparsecc
from benchmarks.results import markdown_table, write
from models import video_dit_small
from models.video_dit_small import GRID, TEXT, VideoDitSmall
from sparsecc.attention.plan import Plan
from sparsecc.calibration.context import Context
from sparsecc.codegen.cuda import alone, blocks, operator
from sparsecc.codegen.cuda.kernel import BlockAttentionSpec
from sparsecc.graph.fx import FxGraph
from sparsecc.passes.reorder_tokens import ReorderTokens, plan_of
from sparsecc.runtime.module import CompiledModule

DENSITY = 0.5
_MOST = 2.0  # times what dense attention differs by


def build(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    module, inputs = video_dit_small.build(), video_dit_small.example_inputs()
    samples = list(video_dit_small.calibration(2))
    with torch.no_grad():
        dense = module(*inputs)
        graph, step = FxGraph.from_module(module, inputs), ReorderTokens(grid=GRID, text_tokens=TEXT, density=DENSITY)
        plan_of(step.apply(graph, Context(calibration=samples)).graph).save(folder / "plan.json")
        made = sparsecc.compile(module, inputs, recipe=_play(folder), target="cpu")
        sparse = made(*inputs)
        _half(module, inputs, "cuda:sm_90a", folder)
    weights = {name: value.half() for name, value in module.state_dict().items()}  # as they are stored
    state = {"weights": weights, "inputs": inputs, "dense": dense, "sparse": sparse}
    torch.save(state, folder / "cpu.pt")


def check(folder: Path) -> dict[str, Any]:
    state = torch.load(folder / "cpu.pt", weights_only=True)
    module = VideoDitSmall()
    module.load_state_dict(state["weights"])
    module, inputs = module.eval().requires_grad_(False).to("cuda"), tuple(x.to("cuda") for x in state["inputs"])
    with torch.no_grad():
        made = _half(module, inputs, "cuda", folder)
        sparse, dense = made(*_halves(inputs)), module.half()(*_halves(inputs))
    rounding, off = _off(dense, state["dense"]), _off(sparse, state["sparse"])
    plan = Plan.load(folder / "plan.json")
    kept = [torch.equal(found, block_map.keep) for found, block_map in zip(_maps(made), plan.maps.values(), strict=True)]
    right = all(kept) and off < _MOST * rounding
    return {"sites": len(kept), "same_blocks": all(kept), "off": off, "rounding": rounding, "right": right}


def _play(folder: Path) -> dict[str, Any]:
    return {"passes": [{"reorder_tokens": {"plan": str(folder / "plan.json")}}]}


def _halves(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.half() if x.is_floating_point() else x for x in inputs)


def _half(module: torch.nn.Module, inputs: tuple[Tensor, ...], target: str, folder: Path) -> CompiledModule:
    program = torch.export.export(copy.deepcopy(module).half(), _halves(inputs))
    made = sparsecc.compile(program, _halves(inputs), recipe=_play(folder), target=target, cache=folder / "kernels")
    assert isinstance(made, CompiledModule)
    return made


def _maps(made: CompiledModule) -> list[Tensor]:
    """bool[heads, query_blocks, key_blocks] of each call, as the kernel reads them."""
    found = []
    for call in alone.calls(made.program.graph):
        items, tiles = (made.program.get_buffer(str(node.target)) for node in call.args[3:5] if isinstance(node, torch.fx.Node))
        spec = operator.plan_of(str(call.args[-1])).spec
        assert isinstance(spec, BlockAttentionSpec)
        found.append(blocks.unpack(blocks.Packed(items, tiles, None), spec).cpu())
    return found


def _off(y: Tensor, expected: Tensor) -> float:
    return float((y.float().cpu() - expected).norm() / expected.norm())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--build", action="store_true")
    options = parser.parse_args()
    if options.build:
        build(options.folder)
        return 0
    row = check(options.folder)
    line = [str(row["sites"]), "yes" if row["same_blocks"] else "no", f"{row['off']:.1e}", f"{row['rounding']:.1e}"]
    table = markdown_table(
        ["attentions", "same blocks", "GPU against CPU", "rounding", ""], [[*line, "reached" if row["right"] else "missed"]]
    )
    write("attention-plan", {"device": torch.cuda.get_device_name(), **row}, f"{table}\n\n{torch.cuda.get_device_name()}.")
    print(table)
    return 0 if row["right"] else 1


if __name__ == "__main__":
    sys.exit(main())
