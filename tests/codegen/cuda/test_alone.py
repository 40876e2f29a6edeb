"""Attention of few queries and norms on a GPU: which become calls of our operators, and what these mean. No kernel is built here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsecc
from sparsecc.codegen.cuda import attention, built, launched, norm, operator
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import AttentionSpec, NormSpec
from sparsecc.codegen.cuda.plan import Binary, Plan, Step
from sparsecc.errors import InputError
from sparsecc.runtime.module import CompiledModule, read_module

NOTHING: dict[str, Any] = {"passes": []}
PACKED = {"passes": [{"prune": {"pattern": "2:4"}}, {"pack": {}}]}
SPEC = AttentionSpec(2, 8, 2, 3, 40, 64, 0.3, masked=True)


@pytest.fixture(autouse=True)
def _nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def binary(self: Any, kernel: str, what: Any, arch: Any, function: Any, geometry: Any) -> Binary:
        return Binary(kernel, ("K", "M", "Q", "V", "Y"), Geometry((1, 1, 1), 32, 0), f"{kernel} {what} {arch}".encode(), "source")

    monkeypatch.setattr(built.Builder, "_binary", binary)


class Attends(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, **self.options)


def inputs(
    heads: int = 8, kv_heads: int = 2, queries: int = 3, keys: int = 40, depth: int = 64, dtype: Any = torch.bfloat16
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, heads, queries, depth), (2, kv_heads, keys, depth), (2, kv_heads, keys, depth))
    return [torch.randn(*shape, generator=generator).to(dtype) for shape in shapes]


def mask(queries: int = 3, keys: int = 40) -> Tensor:
    seen = torch.rand(queries, keys, generator=torch.Generator().manual_seed(1)) < 0.5
    seen[0, 0] = True
    return seen


def compiled(module: nn.Module, *given: Tensor, recipe: Any = NOTHING) -> CompiledModule:
    fixed = torch.export.export(module, given)  # a step of decoding has sizes of its own
    made = sparsecc.compile(fixed, given, recipe=recipe, target="cuda:sm_90a,sm_80")
    assert isinstance(made, CompiledModule)
    return made


def key(spec: AttentionSpec | NormSpec = SPEC) -> str:
    return operator.register(Plan(spec, {}, (Step(spec.tokens, "a kernel", "", {}),), {}))


@pytest.mark.parametrize("shape", [(3, 40), (1, 1, 3, 40), (1, 40)])
def test_a_masked_one_becomes_a_call(shape: tuple[int, ...], tmp_path: Any) -> None:
    seen = mask()[-shape[-2] :].reshape(shape)
    given = (*inputs(), seen)
    made = compiled(Attends(enable_gqa=True, scale=0.3), *given)
    [plan] = made.plans
    assert plan.spec == AttentionSpec(2, 8, 2, 3, 40, 64, 0.3, masked=True) and set(plan.steps[0].binaries) == {"sm_90a", "sm_80"}
    q, k, v = (tensor.float() for tensor in inputs())
    expected = F.scaled_dot_product_attention(q, k, v, seen, scale=0.3, enable_gqa=True)
    assert (made(*given).float() - expected).abs().max() < 0.02
    made.save(tmp_path / "model.sparsecc")
    assert torch.equal(read_module(tmp_path / "model.sparsecc")(*given), made(*given))
    assert "1 of attention 8/2 heads of 64 on 40: decode_attention (not measured" in str(made.report)


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"is_causal": True}, inputs(8, 8)),
        ({"enable_gqa": True}, inputs(queries=5)),  # 20 rows
        ({}, inputs(8, 8, dtype=torch.float32)),
        ({}, inputs(8, 8, depth=80)),
        ({}, [*inputs(8, 8), torch.rand(2, 1, 3, 40) < 0.5]),  # one for each sequence
        ({}, [*inputs(8, 8), torch.zeros(3, 40, dtype=torch.bfloat16)]),
        ({}, [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in inputs(8, 8)]),
    ],
    ids=["causal", "many queries", "float32", "head_dim 80", "a mask for each", "a mask that is added", "keys that lie otherwise"],
)
def test_what_stays_torchs(options: dict[str, Any], given: list[Tensor]) -> None:
    made = compiled(Attends(**options), *given)
    assert not made.plans
    assert torch.allclose(made(*given).float(), Attends(**options)(*given).float(), atol=1e-2)


def test_nan_stays() -> None:
    q, k, v = inputs()
    q[0, 0, 0, 0] = torch.nan
    y = attention.attention_cuda(q, k, v, mask(), key())
    assert y[0, 0, 0].isnan().all() and y[1].isfinite().all()


def test_there_are_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = launched.without_gradients("attention_cuda", lambda: attention.attention_cuda)
    q, k, v = inputs()
    with pytest.raises(InputError, match=r"attention_cuda has no gradients; call the model under torch.no_grad\(\)"):
        guard(q.requires_grad_(), k, v, mask(), key())
    with torch.no_grad():
        assert not guard(q, k, v, mask(), key()).requires_grad


def test_a_query_that_sees_nothing_gives_zeros() -> None:
    seen = mask()
    seen[1] = False
    y = attention.attention_cuda(*inputs(), seen, key())
    assert not y[:, :, 1].any() and y[:, :, 0].any() and y.isfinite().all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((*inputs(queries=4), mask()), r"attention_cuda takes bfloat16 \(2, 8, 3, 64\) on cpu, q is torch.bfloat16 \(2, 8, 4, 64\)"),
        ((*inputs(dtype=torch.float16), mask()), "q is torch.float16"),
        ((*inputs(), None), "for attention with a mask"),
        ((*inputs(), mask().float()), r"takes a mask bool \(3, 40\) on cpu, it is torch.float32 \(3, 40\)"),
        ((*inputs(), mask(5)), r"it is torch.bool \(5, 40\)"),
        ((*inputs(), mask().expand(2, 1, 3, 40)), r"it is torch.bool \(2, 1, 3, 40\)"),
    ],
)
def test_other_inputs_than_the_plans(given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        attention.attention_cuda(*given, key())


class Normed(nn.Module):
    """Layers that read a norm, of which another operator may read the result, too."""

    def __init__(self, alone: bool = True) -> None:
        super().__init__()
        self.norm, self.gate, self.up, self.alone = nn.RMSNorm(64, eps=1e-5), nn.Linear(64, 96), nn.Linear(64, 96), alone
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        z = F.silu(self.gate(y)) * self.up(y)
        return z if self.alone else z + y.sum()


def test_a_norm_before_our_layers_becomes_a_call(tmp_path: Any) -> None:
    torch.manual_seed(0)
    module, x = Normed().bfloat16().eval(), torch.randn(2, 5, 64).bfloat16()
    made = compiled(module, x, recipe=PACKED)
    assert [plan.spec for plan in made.plans if isinstance(plan.spec, NormSpec)] == [NormSpec(10, 64, 1e-5)]
    assert made.report.check is not None and made.report.check.max_rel < 0.03
    made.save(tmp_path / "model.sparsecc")
    assert torch.equal(read_module(tmp_path / "model.sparsecc")(x), made(x))


@pytest.mark.parametrize(
    ("module", "rows", "recipe"),
    [(Normed(alone=False), 10, PACKED), (Normed(), 65, PACKED), (Normed(), 10, NOTHING)],
    ids=["another reads it", "many rows", "dense layers"],
)
def test_a_norm_that_stays_torchs(module: nn.Module, rows: int, recipe: Any) -> None:
    made = compiled(module.bfloat16().eval(), torch.randn(rows, 64).bfloat16(), recipe=recipe)
    assert not any(isinstance(plan.spec, NormSpec) for plan in made.plans)


class Scaled(nn.Module):
    """A norm whose weight another kernel has only just made, or the call itself has written."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.before, self.after, self.way = nn.Linear(64, 64), nn.Linear(64, 64), way
        self.register_buffer("scale", torch.ones(64))

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        if self.way == "written":
            self.get_buffer("scale").add_(1)
            scale = self.get_buffer("scale")
        weight = self.before(scale) if self.way == "made" else scale
        return self.after(F.rms_norm(x, (64,), weight, 1e-5))


@pytest.mark.parametrize("way", ["given", "made", "written"])
def test_a_norm_whose_weight_is_not_stored_stays_torchs(way: str) -> None:
    """It would be read before the kernel before has ended."""
    made = compiled(Scaled(way).bfloat16().eval(), torch.randn(3, 64).bfloat16(), torch.randn(64).bfloat16(), recipe=PACKED)
    assert made.plans and not any(isinstance(plan.spec, NormSpec) for plan in made.plans)


def test_other_inputs_than_a_norms_plan() -> None:
    spec = NormSpec(3, 64, 1e-5)
    with pytest.raises(InputError, match=r"rms_norm_cuda takes bfloat16 \(3, 64\) and \(64,\) on cpu, x is torch.bfloat16 \(4, 64\)"):
        norm.rms_norm_cuda(torch.randn(4, 64).bfloat16(), torch.randn(64).bfloat16(), key(spec))
    with pytest.raises(InputError, match="weight is "):
        norm.rms_norm_cuda(torch.randn(3, 64).bfloat16(), torch.randn(64), key(spec))


def test_plans_are_not_mixed_up() -> None:
    with pytest.raises(Exception, match="is for attention"):
        operator.linear_cuda(torch.randn(1, 4), torch.zeros(1, dtype=torch.uint8), None, None, key())
    with pytest.raises(InputError, match="is for attention"):
        norm.rms_norm_cuda(torch.randn(1, 4), torch.zeros(4), key())
    with pytest.raises(InputError, match="is for rms norm 3x64"):
        attention.attention_cuda(*inputs(), mask(), key(NormSpec(3, 64, 1e-5)))


def test_compiled_layers_go_past_the_dispatcher_unless_something_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU; the module here stands for one, as far as it is called."""
    made = compiled(Normed().bfloat16().eval(), x := torch.randn(5, 64).bfloat16(), recipe=PACKED)
    assert all(node.target is operator.linear for node in operator.calls(made.program.graph)) and operator.calls(made.program.graph)
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    with torch.no_grad():
        expected = made(x)
        assert torch.equal(torch.compile(made, backend=backend)(x), expected)
    assert "sparsecc.linear_cuda.default" in seen


def test_a_loaded_module_is_one_graph(tmp_path: Any) -> None:
    made = compiled(Normed().bfloat16().eval(), x := torch.randn(5, 64).bfloat16(), recipe=PACKED)
    made.save(tmp_path / "model.sparsecc")
    again = read_module(tmp_path / "model.sparsecc")
    with torch.no_grad():
        assert torch.equal(torch.compile(again, backend="eager", fullgraph=True)(x), made(x))
