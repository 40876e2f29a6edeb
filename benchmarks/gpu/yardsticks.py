"""What the pieces of our kernels reach where nothing is sparse: a dense product against cuBLAS, and reading."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.promises import Promise
from sparsecc.codegen.cuda import measure
from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.built import Builder
from sparsecc.codegen.cuda.driver import Kernel, tensor_map
from sparsecc.codegen.cuda.kernels import dense_matmul, read_memory
from sparsecc.codegen.cuda.kernels.dense_matmul import MatmulSpec
from sparsecc.codegen.cuda.kernels.read_memory import ReadSpec
from sparsecc.codegen.cuda.plan import Binary
from sparsecc.timing import Spread

SIZE, AT_LEAST = 8192, 0.92
_PRODUCT = MatmulSpec(SIZE, SIZE, SIZE)
_READS = {"the 66 MB of a 2:4 weight of 14336x4096": 66_060_288, "2 GB": 2 << 30}


def build(arch: Arch, builder: Builder) -> None:
    for name, spec in (("dense_matmul", _PRODUCT), *(("read_memory", ReadSpec(count)) for count in _READS.values())):
        _built(name, spec, arch, builder)


def _built(name: str, spec: Any, arch: Arch, builder: Builder) -> Binary:
    space = {"dense_matmul": dense_matmul.space, "read_memory": read_memory.space}[name]
    return builder.single(name, spec, space(spec, arch)[0], arch)


def matmul(arch: Arch, builder: Builder, show: Callable[[str], None]) -> dict[str, Any]:
    """C = A Bᵀ, 8192³ in bfloat16, as cuBLAS has it and as our kernel has it."""
    binary = _built("dense_matmul", _PRODUCT, arch, builder)
    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    c, theirs = torch.full_like(a, float("nan")), torch.empty_like(a)
    kernel, boxes = Kernel(binary.cubin, binary.name, binary.geometry, "mmm"), dict(binary.geometry.maps)
    maps = {name: tensor_map(tensor.data_ptr(), boxes[name]) for name, tensor in (("A", a), ("B", b), ("C", c))}
    arguments = [maps[name] for name in binary.arguments]
    ours, cublas = measure.in_turns(
        [
            [lambda: kernel(torch.cuda.current_stream().cuda_stream, *arguments)],
            [functools.partial(torch.mm, a, b.T, out=theirs)],
        ],
        rounds=21,
        at_least=4,
    )
    error = float((c[:64].double() - a[:64].double() @ b.double().T).abs().max() / c[:64].abs().max())
    row = {
        "name": f"dense_matmul {SIZE}³",
        "us": ours.to_dict(),
        "cublas_us": cublas.to_dict(),
        "tflops": 2 * SIZE**3 / ours.median / 1e6,
        "times": cublas.median / ours.median,
        "low": cublas.p10 / ours.p90,
        "high": cublas.p90 / ours.p10,
        "at_least": AT_LEAST,
        "error": error,
        "right": error < 1e-2,
    }
    show(f"{row['name']}: {ours.median:.0f} µs, cuBLAS {cublas.median:.0f}, {row['times']:.2f}x (wanted {AT_LEAST}), error {error:.1e}")
    return row


def promise(row: dict[str, Any]) -> Promise:
    measured = Spread(row["times"], row["low"], row["high"])
    return Promise("dense", row["name"], "cuBLAS", measured, row["at_least"], right=row["right"], ms=row["us"]["median"] / 1e3)


def reads(arch: Arch, builder: Builder, show: Callable[[str], None]) -> list[dict[str, Any]]:
    """Bulk copies of so many bytes and nothing else, over rotated memory."""
    rows = []
    for name, count in _READS.items():
        binary = _built("read_memory", ReadSpec(count), arch, builder)
        kernel = Kernel(binary.cubin, binary.name, binary.geometry, "pp")
        sums = torch.empty(binary.geometry.grid[0], 32, device="cuda", dtype=torch.int32)
        memory = [torch.ones(count, device="cuda", dtype=torch.uint8) for _ in range(measure.copies(count) if count < 1 << 30 else 1)]
        places = [{"X": x.data_ptr(), "S": sums.data_ptr()} for x in memory]
        calls = [functools.partial(_launch, kernel, [place[argument] for argument in binary.arguments]) for place in places]
        [us] = measure.in_turns([calls], at_least=8)
        rows.append({"name": name, "bytes": count, "us": us.to_dict(), "tb_per_s": count / us.median / 1e6})
        show(f"reading {name}: {us.median:.1f} µs, {rows[-1]['tb_per_s']:.2f} TB/s")
    return rows


def _launch(kernel: Kernel, arguments: list[int]) -> None:
    kernel(torch.cuda.current_stream().cuda_stream, *arguments)
