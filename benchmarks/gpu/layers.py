"""One linear layer: our kernel and cuBLAS on the dense weight, CUDA graphs over rotated weights, in turns."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.promises import Promise
from sparsecc.codegen.cuda import measure, operator
from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.built import Builder
from sparsecc.codegen.cuda.choose import Chooser
from sparsecc.codegen.cuda.kernel import LinearSpec, Weights
from sparsecc.codegen.cuda.plan import Plan
from sparsecc.codegen.cuda.target import Target
from sparsecc.codegen.cuda.unpacking import packed, values
from sparsecc.timing import Spread

CUBLAS, CUSPARSELT = "cuBLAS dense", "cuSPARSELt 2:4"
_TOLERANCE = 2e-2  # of the largest output, in bfloat16


@dataclass(frozen=True)
class Case:
    """zeros: share of an unstructured weight.  at_least: by number of tokens, times cuBLAS."""

    name: str
    form: str
    rows: int
    depth: int
    at_least: dict[int, float]
    zeros: float = 0.0

    @property
    def spec(self) -> LinearSpec:
        return LinearSpec(self.form, self.rows, self.depth, 0)


def _shapes(name: str, form: str, at_least: dict[tuple[int, int], dict[int, float]], zeros: float = 0.0) -> list[Case]:
    return [Case(name, form, *shape, wanted, zeros) for shape, wanted in at_least.items()]


CASES = (
    *_shapes(
        "2:4",
        "2:4",
        {
            (14336, 4096): {1: 1.8, 8: 1.8, 16: 1.7, 64: 1.5},
            (4096, 14336): {1: 1.7, 8: 1.7, 16: 1.6, 64: 1.45},
            (6144, 4096): {1: 1.6, 8: 1.6, 16: 1.6},
            (4096, 4096): {1: 1.6, 8: 1.6, 16: 1.6},
        },
    ),
    *_shapes("2:4 int8", "2:4 int8", {(14336, 4096): {1: 2.4, 8: 2.4, 16: 2.4}}),
    *_shapes("2:4 fp8", "2:4 e4m3", {(14336, 4096): {1: 2.4, 8: 2.4, 16: 2.4}}),
    *_shapes("int4 g128", "int4 g128", {(14336, 4096): {1: 2.8, 8: 2.8, 16: 2.8}}),
    *_shapes("2:4 int4 g128", "2:4 int4 g128", {(14336, 4096): {1: 3.3, 8: 3.3, 16: 3.3}}),
    *_shapes("60 % zeros", "sparse", {(14336, 4096): {1: 1.3, 2: 1.3, 4: 1.3}}, 0.6),
    *_shapes("80 % zeros", "sparse", {(14336, 4096): {1: 2.1, 2: 2.1, 4: 2.1}}, 0.8),
)


def made(case: Case, device: torch.device, seed: int = 0) -> Weights:
    """Normal deviates, pruned by magnitude, in the form's numbers."""
    generator = torch.Generator(device).manual_seed(seed)
    weight = torch.randn(case.rows, case.depth, device=device, generator=generator, dtype=torch.bfloat16)
    if case.form.startswith("2:4"):
        groups = weight.view(case.rows, -1, 4)
        least = groups.abs().topk(2, -1, largest=False).indices
        weight = groups.scatter(-1, least, 0).view(case.rows, case.depth)
    if case.zeros:
        weight = weight.where(weight.abs() > _magnitude(case.zeros), 0)
    kind = case.form.removeprefix("2:4").strip()
    return _narrow(weight, kind) if kind and case.form != "sparse" else Weights(weight)


def _magnitude(zeros: float) -> float:
    """Below which such a share of normal deviates is."""
    return float(torch.erfinv(torch.tensor(zeros))) * 2**0.5


def _narrow(weight: Tensor, kind: str) -> Weights:
    wide = weight.float()
    if kind == "e4m3":
        scale = wide.abs().amax(1, keepdim=True) / 448
        return Weights((wide / scale).to(torch.float8_e4m3fn), scale)
    most = 127 if kind.startswith("int8") else 7
    group = int(kind.partition(" g")[2] or weight.shape[1])
    grouped = wide.view(weight.shape[0], -1, group)
    scale = grouped.abs().amax(-1, keepdim=True).clamp(min=1e-6) / most
    scale = scale.to(weight.dtype).float()
    return Weights((grouped / scale).round().clamp(-most - 1, most).to(torch.int8).view(weight.shape), scale.squeeze(-1))


def plan_of(case: Case, target: Target, builder: Builder) -> Plan:
    choice = Chooser(target, builder, measure=False).choose(case.spec, Weights(torch.empty(0)), 1)
    if choice.plan is None:
        raise RuntimeError(f"{case.name} {case.rows}x{case.depth}: {choice.reason}")
    return choice.plan


def build(cases: Sequence[Case], arches: Sequence[Arch], builder: Builder) -> None:
    """All kernels of some cases, on a machine without a GPU."""
    for case in cases:
        plan_of(case, Target(tuple(arch.name for arch in arches)), builder)


def run(cases: Sequence[Case], target: Target, builder: Builder, bandwidth: float, show: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """A row for each case and number of tokens. bandwidth: bytes a second of a long read."""
    for case in cases:
        yield from _case(case, plan_of(case, target, builder), bandwidth, show)
        torch.cuda.empty_cache()


def _case(case: Case, plan: Plan, bandwidth: float, show: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    device = torch.device("cuda", torch.cuda.current_device())
    weights = made(case, device)
    weight = packed(case.spec, weights)
    nbytes = weight.nbytes
    key = operator.register(plan)
    operator.prepare(key, device)
    ours = measure.rotated(weight)
    theirs = measure.rotated(torch.randn(case.rows, case.depth, device=device, dtype=torch.bfloat16))
    for tokens, at_least in case.at_least.items():
        x = torch.randn(tokens, case.depth, device=device, dtype=torch.bfloat16)
        y = operator.linear_cuda(x, weight, None, None, key)
        expected = x.double() @ values(weights, case.form).double().T
        error = float((y.double() - expected).abs().max() / expected.abs().max())
        candidates: list[list[Callable[[], object]]] = [
            [functools.partial(operator.linear_cuda, x, copy, None, None, key) for copy in ours],
            [functools.partial(functional.linear, x, copy) for copy in theirs],
        ]
        mine, rival = measure.in_turns(candidates, rounds=31)
        step = next((step for step in plan.steps if tokens <= step.tokens), plan.steps[-1])
        row = {
            "name": f"{case.name} {case.rows}x{case.depth} on {tokens}",
            "kernel": step.kernel,
            "knobs": step.knobs,
            "us": mine.to_dict(),
            "cublas_us": rival.to_dict(),
            "times": rival.median / mine.median,
            "low": rival.p10 / mine.p90,
            "high": rival.p90 / mine.p10,
            "at_least": at_least,
            "bytes": nbytes,
            "of_floor": nbytes / bandwidth * 1e6 / mine.median,
            "error": error,
            "right": error < _TOLERANCE,
        }
        show(f"{row['name']}: {mine.median:.1f} µs, cuBLAS {rival.median:.1f}, {row['times']:.2f}x (wanted {at_least}), error {error:.1e}")
        yield row


def promise(row: dict[str, Any]) -> Promise:
    measured = Spread(row["times"], row["low"], row["high"])
    return Promise("layer", row["name"], CUBLAS, measured, row["at_least"], right=row["right"], ms=row["us"]["median"] / 1e3)


HOST = {"one call of a layer as compiled modules make it": operator.linear, "one call through torch.ops": operator.linear_cuda}


def host_us(call: Callable[..., Tensor], plan: Plan, case: Case, calls: int = 2000) -> Spread:
    """Of one call of the operator, while the GPU keeps up: a small layer, one token. call: one of `HOST`."""
    device = torch.device("cuda", torch.cuda.current_device())
    weight = packed(case.spec, made(case, device))
    x, key = torch.randn(1, case.depth, device=device, dtype=torch.bfloat16), operator.register(plan)
    taken = []
    with torch.no_grad():
        for _ in range(calls // 100):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(100):
                call(x, weight, None, None, key)
            taken.append((time.perf_counter() - start) * 1e4)
    return Spread.of(taken)


__all__ = ["CASES", "HOST", "Case", "build", "host_us", "plan_of", "promise", "run"]
