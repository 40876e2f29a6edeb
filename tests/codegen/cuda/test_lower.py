"""A torch graph whose packed layers become calls of one operator, which on the CPU does what the kernels mean. No kernel is built here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsecc
from sparsecc.codegen.cuda import built, operator
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.plan import EVERY, Binary
from sparsecc.errors import InputError, ModelError
from sparsecc.runtime.module import CompiledModule, read_module

PACKED = {"passes": [{"prune": {"pattern": "2:4"}}, {"pack": {}}]}
WIDTH = 64


@pytest.fixture(autouse=True)
def _nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def binary(self: Any, kernel: str, what: Any, arch: Any, function: Any, geometry: Any) -> Binary:
        return Binary(kernel, ("W", "X", "Y", "tokens"), Geometry((1, 1, 1), 32, 0), f"{kernel} {what} {arch}".encode(), "source")

    monkeypatch.setattr(built.Builder, "_binary", binary)


def compiled(module: nn.Module, *inputs: Tensor, recipe: Any = PACKED, target: str = "cuda:sm_90a") -> CompiledModule:
    made = sparsecc.compile(module.bfloat16(), inputs, recipe=recipe, target=target)
    assert isinstance(made, CompiledModule)
    return made


def calls(made: CompiledModule) -> list[operator.Plan]:
    return [operator.plan_of(str(node.args[-1])) for node in operator.calls(made.program.graph)]


def linear(plan: operator.Plan) -> LinearSpec:
    assert isinstance(plan.spec, LinearSpec)
    return plan.spec


def x(*shape: int) -> Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()


class Each(nn.Module):
    """One layer and a function of x and its output."""

    def __init__(self, then: Callable[[Tensor, Tensor], Tensor], bias: bool = True) -> None:
        super().__init__()
        self.layer, self.then = nn.Linear(WIDTH, WIDTH, bias=bias), then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(x, self.layer(x))


@pytest.mark.parametrize(
    ("then", "activation", "residual"),
    [
        (lambda x, y: y, "", False),
        (lambda x, y: F.gelu(y), "gelu", False),
        (lambda x, y: F.gelu(y, approximate="tanh"), "gelu_tanh", False),
        (lambda x, y: x + y, "", True),
        (lambda x, y: F.relu(y) + x, "relu", True),
        (lambda x, y: F.hardswish(y), "", False),  # which kernels do not know
        (lambda x, y: y + x[..., :1], "", False),  # of another shape
        (lambda x, y: torch.add(y, x, alpha=2), "", False),
        (lambda x, y: y + F.silu(y), "", False),  # the sums are needed, too
    ],
)
def test_what_follows_a_layer_moves_into_its_call(then: Any, activation: str, residual: bool) -> None:
    made = compiled(Each(then), x(3))
    [plan] = calls(made)
    spec = linear(plan)
    assert (spec.activation, spec.residual, spec.bias, spec.gated) == (activation, residual, True, False)
    assert made.report.check is not None and made.report.check.max_rel < 0.02


class Gated(nn.Module):
    def __init__(self, *, other_first: bool = False, inputs: int = 1, biases: tuple[bool, bool] = (False, False)) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(WIDTH, 96, bias=bias) for bias in biases)
        self.other_first, self.inputs = other_first, inputs

    def forward(self, x: Tensor) -> Tensor:
        gate, up = F.silu(self.gate(x)), self.up(x if self.inputs == 1 else x + 1)
        return up * gate if self.other_first else gate * up


@pytest.mark.parametrize("other_first", [False, True])
def test_a_gate_and_its_factor_are_one_call(other_first: bool) -> None:
    made = compiled(Gated(other_first=other_first), x(2, 5))
    [plan] = calls(made)
    spec = linear(plan)
    assert spec.gated and spec.activation == "silu" and (spec.rows, spec.outputs) == (192, 96)
    assert made.report.check is not None and made.report.check.max_rel < 0.02


@pytest.mark.parametrize("module", [Gated(inputs=2), Gated(biases=(True, False))], ids=["other inputs", "one bias"])
def test_what_is_no_gate_of_one_input_stays_two_calls(module: nn.Module) -> None:
    made = compiled(module, x(2))
    assert [linear(plan).gated for plan in calls(made)] == [False, False]
    assert made.report.check is not None and made.report.check.max_rel < 0.02


class Attention(nn.Module):
    """q, k and v of one input, and a cache that is written."""

    keys: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, rows, bias=False) for rows in (WIDTH, 32, 32, WIDTH))
        self.register_buffer("keys", torch.zeros(1, 8, 32))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        self.keys.index_copy_(1, positions, k)
        return x + self.out(torch.cat([(q.view(1, -1, 2, 32) * v[:, :, None]).flatten(2)], -1)) + self.keys.mean()


def test_layers_of_one_input_are_one_call_and_a_cache_is_written_where_it_is() -> None:
    module = Attention()
    made = compiled(module, x(1, 1), torch.tensor([2]))
    assert sorted((linear(plan).rows, linear(plan).residual) for plan in calls(made)) == [(WIDTH, True), (WIDTH + 64, False)]
    targets = [str(node.target) for node in made.program.graph.nodes if node.op == "call_function"]
    assert "aten.index_copy_.default" in targets and "aten.copy_.default" not in targets
    assert made.report.check is not None and made.report.check.max_rel < 0.02
    with torch.no_grad():
        made(x(1, 1), torch.tensor([3]))
    written = dict(made.named_buffers())["program.keys"][0].abs().sum(1) > 0
    assert written.tolist() == [False, False, False, True, False, False, False, False]  # what the check wrote was taken back
    assert not module.keys.any()  # a buffer of its own


def test_more_tokens_than_any_bucket_and_none() -> None:
    made = compiled(Each(lambda x, y: y), x(3))
    [plan] = calls(made)
    assert plan.steps[-1].tokens == EVERY  # 2:4 on Hopper has a kernel for any number
    assert [step.kernel for step in plan.steps][:4] == ["nm_decode"] * 4
    with torch.no_grad():
        assert made(x(70)).shape == (70, WIDTH)


def test_layers_that_no_kernel_takes_are_dense_and_the_report_says_why() -> None:
    recipe = {"passes": [{"quantize": {"dtype": "int8"}}]}
    made = compiled(Each(lambda x, y: y), x(3), recipe=recipe)
    assert not calls(made)
    [site] = [site for site in made.report.sites if site.kind == "Linear"]
    assert site.decision == "dense" and "quantize to int4 or int8_weight_only" in site.reason
    assert made.report.check is not None and made.report.check.max_rel < 0.05


def test_float32_stays_dense() -> None:
    made = sparsecc.compile(Each(lambda x, y: y), (torch.randn(3, WIDTH),), recipe=PACKED, target="cuda:sm_80")
    assert isinstance(made, CompiledModule) and not calls(made)
    assert "kernels for GPUs take bfloat16 and float16, x is float32" in made.report.explain()


@pytest.mark.parametrize(
    ("recipe", "form"),
    [
        ("quantize{dtype=int4,group=32}", "int4 g32"),
        ("quantize{dtype=int4,group=64,symmetric=false}", "int4 g64 zeros"),
        ("quantize{dtype=int8_weight_only,group=row}", "int8"),
        ("prune{pattern=2:4} quantize{dtype=int4} pack", "2:4 int4 g128"),
        ("prune{pattern=2:4} quantize{dtype=int8_weight_only,group=row} pack", "2:4 int8"),
        ("prune{pattern=unstructured,sparsity=0.8} pack", "sparse"),
        ("prune{pattern=1:4} pack", "2:4"),
    ],
)
def test_every_form_computes_what_its_stored_numbers_say(recipe: str, form: str) -> None:
    made = compiled(Each(lambda x, y: y), x(3), recipe=recipe)
    assert [plan.spec.form for plan in calls(made)] == [form]
    assert made.report.check is not None and made.report.check.max_rel < 0.02


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ((x(1, 2), torch.tensor([2])), r"input 'x' has shape \(1, 2, 64\), the model was compiled for \(1, 1, 64\)"),
        ((x(1, 1).float(), torch.tensor([2])), "input 'x' is torch.float32, the model takes bfloat16"),
        ((x(1, 1)[0], torch.tensor([2])), r"input 'x' has shape \(1, 64\)"),
    ],
)
def test_a_loaded_module_checks_what_it_is_called_with(changed: tuple[Tensor, ...], said: str, tmp_path: Any) -> None:
    fixed = torch.export.export(Attention().bfloat16(), (x(1, 1), torch.tensor([2])))
    made = sparsecc.compile(fixed, (x(1, 1), torch.tensor([2])), recipe=PACKED, target="cuda:sm_90a")
    made.save(tmp_path / "attention.sparsecc")
    again = read_module(tmp_path / "attention.sparsecc")
    with pytest.raises(InputError, match=said):
        again(*changed)


def test_a_saved_module_is_the_same_module(tmp_path: Any) -> None:
    made = compiled(Attention(), x(1, 1), torch.tensor([2]), target="cuda:sm_90a,sm_80")
    made.save(tmp_path / "attention.sparsecc")
    again = read_module(tmp_path / "attention.sparsecc")
    assert again.report == made.report and again.inputs == made.inputs and again.target.arches == ("sm_90a", "sm_80")
    with torch.no_grad():
        assert torch.equal(again(x(1, 1), torch.tensor([1])), made(x(1, 1), torch.tensor([1])))
    assert {arch for plan in again.plans for arch, _ in plan.binaries} == {"sm_90a", "sm_80"}


class Remembering(nn.Module):
    """Writes a buffer in some way, beside a layer."""

    h: Tensor

    def __init__(self, step: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.step = nn.Linear(WIDTH, WIDTH, bias=False), step
        self.register_buffer("h", torch.zeros(3, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self, self.layer(x))


def _returns_what_it_stores(self: Remembering, y: Tensor) -> Tensor:
    new = self.h + y
    self.h.copy_(new)
    return new[:2]


def _stores_wider_numbers(self: Remembering, y: Tensor) -> Tensor:
    new = self.h + y.float()
    self.h.copy_(new)
    return new * 3


def _keeps_an_old_row(self: Remembering, y: Tensor) -> Tensor:
    old = self.h[0].clone()
    self.h.index_copy_(0, torch.arange(3), y)
    return y + old


def _rebinds(self: Remembering, y: Tensor) -> Tensor:
    self.h = self.h * 0.5 + y
    return self.h.sum(0)


def _reads_first(self: Remembering, y: Tensor) -> Tensor:
    out = y + self.h
    self.h.add_(y)
    return out


@pytest.mark.parametrize("step", [_returns_what_it_stores, _stores_wider_numbers, _keeps_an_old_row, _rebinds, _reads_first])
def test_a_buffer_that_is_written_in_any_way_counts_from_call_to_call(step: Any) -> None:
    module, other = Remembering(step).bfloat16(), Remembering(step).bfloat16()
    other.load_state_dict(module.state_dict())
    made = compiled(module, x(3), recipe={"passes": [{"prune": {"pattern": "2:4"}}, {"pack": {}}]})
    assert not module.h.any()  # what tracing and checking wrote was taken back
    weight = made.get_buffer(next(name for name, _ in made.named_buffers() if name.endswith("packed")))
    [plan] = calls(made)
    other.layer.weight.data = operator._cpu(torch.eye(WIDTH), weight, None, None, plan.key).T.bfloat16()
    with torch.no_grad():
        ours, theirs = [made(x(3)) for _ in range(3)], [other(x(3)) for _ in range(3)]
    for a, b in zip(ours, theirs, strict=True):  # also after later calls
        assert torch.allclose(a.float(), b.float(), atol=0.05)


def test_guards_of_the_trace_are_checked_in_a_call() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return y * 2 if x.shape[0] > 4 else y - 100

    made = compiled(Branching(), x(3))
    with pytest.raises(AssertionError, match="Guard failed"):
        made(x(8))


def test_a_model_that_writes_into_its_input_is_refused() -> None:
    class Writes(nn.Module):
        def forward(self, x: Tensor, cache: Tensor) -> Tensor:
            return cache.add_(x) * 1

    with pytest.raises(ModelError, match="the model writes into its input 'cache'; make it a buffer of the model, or return it"):
        compiled(Writes(), x(3), x(3))


def test_a_convolution_along_a_line_becomes_dense() -> None:
    recipe = "prune{pattern=unstructured,sparsity=0.8} pack"
    made = compiled(nn.Conv1d(WIDTH, 8, 3, padding=1), torch.randn(2, WIDTH, 9).bfloat16(), recipe=recipe)
    assert made.report.check is not None and made.report.check.max_rel < 0.02


def test_groups_that_the_depth_is_no_multiple_of() -> None:
    layer = nn.Linear(104, 64)
    made = compiled(layer, torch.randn(3, 104).bfloat16(), recipe="quantize{dtype=int4,group=64}")
    assert made.report.check is not None and made.report.check.max_rel < 0.01
