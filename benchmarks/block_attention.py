"""How fast block-sparse attention is: the compiled kernel at several densities in turns with the dense attention of others and its own.

`benchmarks.paro` prints and writes it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import sparsecc
from benchmarks.peers import Call, OnnxRuntime, Torch, Workload, call_of, max_relative_error
from benchmarks.promises import Promise, promise_of
from benchmarks.results import markdown_table, promise
from sparsecc.attention.base import AXIS_ORDERS, BLOCK, BlockMap, Grid, required
from sparsecc.attention.judge import heaviest
from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu import threads as pool
from sparsecc.codegen.cpu.emit.attention import rounded
from sparsecc.codegen.cpu.operators import gather_blocks
from sparsecc.codegen.cpu.operators.block_attention import BlockAttentionSpec, prepare
from sparsecc.codegen.cpu.target import detect
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Attention
from sparsecc.ops.block_attention.torch import BlockAttention
from sparsecc.passes.reorder_tokens import plan_of
from sparsecc.timing import Progress, Spread, Timing, interleave, speedup

HEAD_DIM = 64
SCALE = HEAD_DIM**-0.5
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.03, "int8": 0.15}  # of the outputs, by what q, k and v are rounded to
MOST_BYTES = 6e9  # what an engine may take for the scores
OWN_DENSE = "sparsecc, dense"
HALF = "torch, bfloat16"
GATHER_SHARE = 0.05  # of the time, at most


@dataclass(frozen=True)
class Row:
    """at_least: in float32, how many times faster than the fastest dense attention in float32; else than float32 at the same density. None
    where nothing is promised."""

    density: float
    at_least: float | None = None
    precision: str = "float32"

    @property
    def name(self) -> str:
        return f"sparsecc, density {self.density:.0%}" + ("" if self.precision == "float32" else f", {self.precision}")


ROWS = (
    Row(1.0),
    Row(0.5, at_least=1.9),
    Row(0.3, at_least=3.2),
    Row(0.2, at_least=4.5),
    Row(0.5, at_least=1.6, precision="bfloat16"),
    Row(0.3, at_least=1.6, precision="bfloat16"),
    Row(0.2, at_least=1.6, precision="bfloat16"),
    Row(0.3, precision="int8"),
)


def gather_of(precision: str) -> str:
    """What the call that gathers q, k and v alone is named."""
    return f"gather alone, {precision}"


class OneAttention(nn.Module):
    """(q, k, v), each f32[batch, heads, tokens, head_dim] → the same."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v)


def measure(
    grid: Grid, heads: int, threads: int, seconds: float, rows: Sequence[Row] = ROWS, progress: Progress | None = None
) -> dict[str, Any]:
    """The document: a row for each engine and density, and what was left out."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, grid.tokens, HEAD_DIM, generator=generator) for _ in range(3))
    arrays = {name: x.numpy() for name, x in zip("qkv", (q, k, v), strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        dense, left_out = _dense(arrays, threads, Path(folder))
        calls, work = dict(dense), Workload("attention", Path(), arrays)
        calls[OWN_DENSE] = call_of(sparsecc.compile(OneAttention(), (q, k, v), threads=threads), work)
        errors = _errors(calls)
        calls[HALF] = _half((q, k, v), threads)
        errors[HALF] = max_relative_error(calls[HALF](), dense["torch"]())
        known = [row for row in rows if multiplied(row.precision, threads)]
        left_out = {**left_out, **{row.name: f"this CPU does not multiply {row.precision}" for row in rows if row not in known}}
        for row in known:
            compiled = _compiled((q, k, v), block_map(grid, heads, row.density), threads, Path(folder), row.precision)
            errors[row.name] = compiled.report.to_dict()["check"]["max_rel"]
            calls[row.name] = call_of(compiled, work)
        for precision in dict.fromkeys(row.precision for row in known):
            calls[gather_of(precision)] = _gather(arrays, grid, threads, precision)
        timings = interleave(calls, seconds=seconds, burst=1, progress=progress)
    found = _document(timings, [*dense, OWN_DENSE], [HALF], known, errors)
    return {"heads": heads, "head_dim": HEAD_DIM, "threads": threads, **found, "left_out": left_out}


def _half(inputs: tuple[Tensor, Tensor, Tensor], threads: int) -> Call:
    """torch's own dense attention of q, k and v that are bfloat16 already."""
    q, k, v = (x.bfloat16() for x in inputs)

    def call() -> list[np.ndarray]:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return [scaled_dot_product_attention(q, k, v).float().numpy()]

    return call


def block_map(grid: Grid, heads: int, density: float) -> BlockMap:
    """Text, the diagonal, and random blocks until the density is reached; the orders least like raster order first."""
    generator = torch.Generator().manual_seed(1)
    blocks = grid.blocks(BLOCK)
    keep = [heaviest(torch.rand(blocks, blocks, generator=generator), required(grid, BLOCK), density) for _ in range(heads)]
    orders = [len(AXIS_ORDERS) - 1 - head % len(AXIS_ORDERS) for head in range(heads)]
    return BlockMap(grid, BLOCK, torch.tensor(orders, dtype=torch.uint8), torch.stack(keep))


def _compiled(inputs: tuple[Tensor, Tensor, Tensor], found: BlockMap, threads: int, folder: Path, precision: str = "float32") -> Any:
    """One attention with this map, through a plan as a user would hand it over."""
    graph = FxGraph.from_module(OneAttention(), inputs)
    [site] = graph.sites(Attention)
    graph.replace(site, BlockAttention(found, SCALE))
    plan_of(graph).save(folder / "plan.json")
    recipe = {"passes": [{"reorder_tokens": {"plan": str(folder / "plan.json"), "precision": precision}}]}
    return sparsecc.compile(OneAttention(), inputs, recipe=recipe, threads=threads)


def _dense(arrays: Mapping[str, np.ndarray], threads: int, folder: Path) -> tuple[dict[str, Call], dict[str, str]]:
    """The dense engines, and why others are left out."""
    calls = {"torch": Torch().load(Workload("attention", Path(), arrays, OneAttention().eval()), threads)}
    left_out = {}
    _, heads, tokens, _ = arrays["q"].shape
    needed = 2 * 4 * heads * tokens**2  # scores and their softmax
    for name, model in (("MatMul, Softmax, MatMul", _three_nodes), ("Attention of opset 23", _one_node)):
        path, name = folder / f"{name}.onnx", f"onnxruntime, {name}"
        onnx.save(model(arrays["q"].shape), path)
        if needed > MOST_BYTES:
            left_out[name] = f"its scores alone would take {needed / 1e9:.0f} GB"
            continue
        calls[name] = OnnxRuntime().load(Workload(name, path, arrays), threads)
    return calls, left_out


def _three_nodes(shape: Sequence[int]) -> onnx.ModelProto:
    """softmax((scale · q) kᵀ) v; k is transposed in the graph, as exporters write it."""
    nodes = [
        helper.make_node("Constant", [], ["scale"], value_float=SCALE),
        helper.make_node("Mul", ["q", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["k"], ["transposed"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["scaled", "transposed"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=-1),
        helper.make_node("MatMul", ["probabilities", "v"], ["y"]),
    ]
    return _model(nodes, shape, opset=18)


def _one_node(shape: Sequence[int]) -> onnx.ModelProto:
    return _model([helper.make_node("Attention", ["q", "k", "v"], ["y"], scale=SCALE)], shape, opset=23)


def _model(nodes: Sequence[onnx.NodeProto], shape: Sequence[int], opset: int) -> onnx.ModelProto:
    *inputs, output = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "qkvy")
    graph = helper.make_graph(nodes, "attention", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _errors(dense: Mapping[str, Call]) -> dict[str, float]:
    """Of each dense engine against the first. Raises RuntimeError when one computes something else: then a time says nothing."""
    first, *_ = dense
    reference = dense[first]()
    errors = {name: max_relative_error(call(), reference) for name, call in dense.items()}
    for name, error in errors.items():
        if not error <= TOLERANCE["float32"]:  # NaN too
            raise RuntimeError(f"{name} and {first} disagree on dense attention: relative error {error:.1e}")
    return errors


def multiplied(precision: str, threads: int) -> bool:
    """Whether this CPU has an instruction for products of such numbers."""
    return precision == "float32" or precision in detect(threads).dot


def _gather(arrays: Mapping[str, np.ndarray], grid: Grid, threads: int, precision: str) -> Call:
    """What reordering costs: the kernel that copies q, k and v into blocks in each head's order, whatever the density."""
    batch, heads, tokens, _ = arrays["q"].shape
    found, target = block_map(grid, heads, 1.0), detect(threads)
    spec = BlockAttentionSpec(batch, heads, heads, tokens, HEAD_DIM, HEAD_DIM, BLOCK, int(found.keep.sum()), SCALE)
    spec = rounded(spec, precision, target)
    places, *_ = prepare(found.places().numpy(), found.keep.numpy(), spec, target)
    function = tvm_api.compile_function(gather_blocks.build(spec, target), target.llvm)
    blocks = [tvm_api.tensor(np.zeros(shape, dtype)) for shape, dtype in gather_blocks.outputs(spec, target)]
    arguments = [*(tvm_api.tensor(array) for array in arrays.values()), tvm_api.tensor(places), *blocks]

    def call() -> list[np.ndarray]:
        pool.run(threads, lambda: function(*arguments))
        return []

    return call


def _document(
    timings: Mapping[str, Timing], dense: Sequence[str], others: Sequence[str], rows: Sequence[Row], errors: Mapping[str, float]
) -> dict[str, Any]:
    """others: dense engines in fewer bits, which are no yardstick.  speedup: over the fastest dense engine in float32.  over_float32: over
    the same density.  gather_share: of the row's time that the gather alone takes."""
    full = [row.name for row in rows if row.density == 1 and row.precision == "float32"]
    fastest = min([*dense, *full], key=lambda name: timings[name].spread_ms.median)
    by_name = {row.name: row for row in rows}
    entries = []
    for name in (*dense, *others, *by_name):
        row = by_name.get(name)
        entry = {**timings[name].to_dict(), "speedup": speedup(timings[name], over=timings[fastest]).to_dict(), "max_rel": errors[name]}
        narrow = row.precision if row else "bfloat16" if name in others else "float32"
        share = speedup(timings[name], over=timings[gather_of(narrow)]).to_dict() if row else None
        twin = Row(row.density).name if row and row.precision != "float32" else None
        over = speedup(timings[name], over=timings[twin]).to_dict() if twin is not None and twin in timings else None
        entry |= {"precision": narrow, "at_least": row.at_least if row else None, "gather_share": share, "over_float32": over}
        entry["right"] = errors[name] <= TOLERANCE[narrow]
        entry["reached"] = None if entry["at_least"] is None else promise_of(entry, "", "", over).reached
        entries.append(entry)
    gathers = {name: timing.to_dict() for name, timing in timings.items() if name.startswith(gather_of(""))}
    return {"fastest_dense": fastest, "gathers": gathers, "rows": entries}


def promises(document: Mapping[str, Any]) -> list[Promise]:
    """Of the rows that are promised something."""
    part = f"attention, {document['threads']} threads"
    found = [row for row in document["rows"] if row["at_least"] is not None]
    baselines = [document["fastest_dense"] if row["over_float32"] is None else "float32 at this density" for row in found]
    return [promise_of(row, part, baseline, row["over_float32"]) for row, baseline in zip(found, baselines, strict=True)]


def holds(document: Mapping[str, Any]) -> bool:
    """Every promised row is reached, the gather takes its share at most, and the results are right."""
    rows = document["rows"]
    gathers = [row["gather_share"]["median"] for row in rows if row["gather_share"]]
    return all(row["reached"] is not False and row["right"] for row in rows) and max(gathers, default=0.0) <= GATHER_SHARE


def table(document: Mapping[str, Any]) -> str:
    fastest = document["fastest_dense"]
    head = ["engine", "ms", "p10-p90", f"times {fastest}", "p10-p90", "times float32", "at least", "gather's share", "max. rel. error"]
    gathers = (f"{Spread(**found['ms']).median:.1f} ms ({name.removeprefix(gather_of(''))})" for name, found in document["gathers"].items())
    left_out = "".join(f"\nLeft out: {name}: {reason}." for name, reason in document["left_out"].items())
    return (
        f"Speed of {document['heads']} head{'s' * (document['heads'] > 1)}, head_dim {document['head_dim']}, fp32 unless a row says other, "
        f"{document['threads']} threads, in turns; random maps of exactly these densities, text and the diagonal among the blocks kept; "
        f"speed-ups over {fastest}, the fastest dense attention in float32, and of narrower numbers over float32 at the same density, of "
        f"which that is promised.\nBringing q, k and v into the order of each head takes {', '.join(gathers)}, timed apart; at most "
        f"{GATHER_SHARE:.0%} of a row's time is promised.{left_out}\n\n{markdown_table(head, [_cells(row) for row in document['rows']])}"
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    ms, faster = Spread(**row["ms"]), Spread(**row["speedup"])
    return [
        row["name"],
        f"{ms.median:.0f}",
        f"{ms.p10:.0f}-{ms.p90:.0f}",
        f"{faster.median:.2f}",
        f"{faster.p10:.2f}-{faster.p90:.2f}",
        f"{row['over_float32']['median']:.2f}" if row["over_float32"] else "",
        promise(row),
        f"{row['gather_share']['median']:.1%}" if row["gather_share"] else "",
        f"{row['max_rel']:.1e}",
    ]
