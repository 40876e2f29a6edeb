"""What the chooser does with measurements; the measurements themselves are made up here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sparsecc.attention.base import Grid
from sparsecc.codegen import choose, compiler
from sparsecc.codegen.choose import Choice
from sparsecc.codegen.cpu import backend, roofline
from sparsecc.codegen.kernel import kernels
from sparsecc.codegen.recognize.program import Layer
from sparsecc.codegen.spec import Epilogue, MatmulSpec
from sparsecc.codegen.task import Known, Task
from sparsecc.forms import Form
from sparsecc.graph.sites import WeightSite
from sparsecc.passes.base import Pass
from sparsecc.passes.pack import Pack
from sparsecc.passes.prune import Prune
from sparsecc.passes.quantize import Quantize
from sparsecc.timing import Timing
from tests.codegen.whole import HERE, Lambda, Parallel, block_map, check, fixed, packed, random, reordered, structured

X = random(16, 32)


@cache
def graph() -> Any:
    torch.manual_seed(0)
    return packed(fixed(nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 32)), X), "4x1", 0.75)


def chosen(model: Any, inputs: Sequence[Tensor], measure: bool = False, known: Mapping[Task, Known] | None = None) -> list[Choice]:
    """As `check` says it, without the code of the whole model, which a few tests compile and run."""
    chooser = choose.Chooser(HERE, measure, known or {})
    compiler.choose(model, inputs, chooser)
    return chooser.choices


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of the sparse and the dense kernel; each still runs once."""
    seconds = [1.0, 1.0]

    def fake(calls: Mapping[str, Any], **_: Any) -> dict[str, Timing]:
        for call in calls.values():
            call()
        return {name: Timing(name, (taken,) * 3) for name, taken in zip(calls, seconds, strict=True)}

    monkeypatch.setattr(backend, "interleave", fake)
    return seconds


def test_the_faster_one_stays(times: list[float]) -> None:
    times[:] = [1e-6, 3e-6]
    first, second = check(graph(), [X], measure=True)
    assert (first.site, second.site) == ("0", "2")
    for choice in (first, second):
        assert choice.decision == "sparse"
        assert choice.kernel.startswith("row_block_spmm 4x")
        assert (choice.measured_us, choice.dense_us) == (pytest.approx(1), pytest.approx(3))
        assert choice.predicted_us is not None
        assert 0 < choice.predicted_us <= 3 * 0.25, "of the multiply-adds; dense ones are rounded up to whole register blocks"
        assert choice.reason == "3.00x as fast as dense"


def test_a_kernel_is_held_against_what_it_has_to_do(times: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its multiplications and its bytes, whether it stays or not; a target that is not this machine has no bound."""
    times[:] = [4e-6, 2e-6]
    monkeypatch.setattr(roofline, "bound_us", lambda ops, size, dtype, target: ops + 1e6 * size)
    choice = chosen(graph(), [X], measure=True)[0]
    tokens, weights = 16, 0.25 * 32 * 16  # one tile
    moved = 4 * (weights + tokens * (32 + 16)) + 2 * weights / 4
    assert choice.bound_us == pytest.approx(2 * tokens * weights + 1e6 * moved)
    assert chosen(graph(), [X], measure=False)[0].bound_us is None


def test_dense_stays_where_it_is_faster(times: list[float]) -> None:
    times[:] = [4e-6, 2e-6]
    choice = check(graph(), [X], measure=True)[0]
    assert choice.decision == "dense"
    assert choice.kernel.startswith("dense_matmul ")
    assert (choice.measured_us, choice.dense_us) == (pytest.approx(4), pytest.approx(2))
    assert choice.reason == "dense is 2.00x as fast"


def test_without_measuring_what_is_stored_sparse_runs_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "interleave", lambda *_, **__: pytest.fail("measured"))
    for choice in chosen(graph(), [X], measure=False):
        assert (choice.decision, choice.measured_us, choice.dense_us, choice.predicted_us) == ("sparse", None, None, None)
        assert choice.reason == "not measured: the target is not this machine"


def test_layers_that_came_dense_are_no_choice(times: list[float]) -> None:
    assert chosen(fixed(nn.Linear(32, 16), X), [X], measure=True) == []


def test_what_the_records_know_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "interleave", lambda *_, **__: pytest.fail("measured"))
    sparse, dense = tasks_of(graph())
    knobs = sparse.space(HERE)[-1]
    known = {sparse: Known(knobs, 1.0), dense: Known(dense.space(HERE)[0], 4.0)}
    choice = chosen(graph(), [X], measure=True, known=known | others(known))[0]
    assert choice.kernel == f"row_block_spmm {knobs.rows}x{knobs.tile} panel={knobs.panel} groups={knobs.groups}"
    assert (choice.measured_us, choice.dense_us, choice.predicted_us) == (1.0, 4.0, pytest.approx(4.0 * 0.25))
    assert choice.reason == "4.00x as fast as dense, by the records"


def test_dense_may_be_the_faster_one_by_the_records() -> None:
    sparse, dense = tasks_of(graph())
    knobs = dense.space(HERE)[-1]
    known = {sparse: Known(sparse.space(HERE)[0], 6.0), dense: Known(knobs, 4.0)}
    choice = check(graph(), [X], measure=False, known=known)[0]
    assert choice.kernel.startswith(f"dense_matmul {knobs.rows}x{knobs.tile} ")
    assert (choice.decision, choice.reason) == ("dense", "dense is 1.50x as fast, by the records")


def test_half_known_is_measured_with_the_known_knobs(times: list[float]) -> None:
    times[:] = [1e-6, 3e-6]
    sparse, _ = tasks_of(graph())
    knobs = sparse.space(HERE)[-1]
    choice = chosen(graph(), [X], measure=True, known={sparse: Known(knobs, 9.0)})[0]
    assert choice.kernel.endswith(f"panel={knobs.panel} groups={knobs.groups}")
    assert choice.measured_us == pytest.approx(1)


def test_layers_that_came_dense_use_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = Task("dense_matmul", MatmulSpec.linear(16, 32, 1, 16))
    knobs = dense.space(HERE)[-1]
    built, row = [], kernels("cpu")["dense_matmul"]
    noting = replace(row, build=lambda spec, given, target: built.append(given) or row.build(spec, given, target))
    monkeypatch.setitem(kernels("cpu"), "dense_matmul", noting)
    chosen(fixed(nn.Sequential(nn.Linear(32, 16), nn.LayerNorm(16)), X), [X], known={dense: Known(knobs, 1.0)})
    assert built == [knobs]


def layer_of(site: WeightSite) -> Layer:
    return Layer(None, site.stored if isinstance(site.stored, Form) else site.stored.numpy(), site=site.name)


def tasks_of(model: Any) -> tuple[Task, Task]:
    """Of its first layer: sparse, dense."""
    site = next(iter(model.sites(WeightSite)))
    sparse, dense = choose.tasks(MatmulSpec.linear(16, 32, 1, 16, Epilogue("relu")), layer_of(site), site.matrix.numpy(), HERE)
    return sparse, dense


def others(known: dict[Task, Known]) -> dict[Task, Known]:
    """The second layer's, so that it is not measured, either."""
    sites = list(graph().sites(WeightSite))
    second = choose.tasks(MatmulSpec.linear(32, 16, 1, 16), layer_of(sites[1]), sites[1].matrix.numpy(), HERE)
    return {task: Known(task.space(HERE)[0], 1.0) for task in second if task not in known}


FEW = random(3, 64)


@cache
def few(*steps: Pass) -> Any:
    torch.manual_seed(0)
    graph: Any = fixed(nn.Sequential(nn.Linear(64, 64), nn.ReLU()), FEW)
    for step in steps:
        graph = step.apply(graph).graph
    return graph


def test_few_tokens_take_the_fastest_of_several(times: list[float]) -> None:
    """Ways come from the fewest bytes of weights on, and end with dense."""
    ways, predicted = ["nm_matvec", "row_block_spmm", "row_block_matvec", "dense_matvec"], []
    for fastest, kernel in enumerate(ways):
        times[:] = [9e-6] * 3 + [6e-6]
        times[fastest] = 3e-6
        [choice] = chosen(few(Prune(pattern="2:4"), Pack()), [FEW], measure=True)
        assert choice.kernel.startswith(f"{kernel} ")
        assert choice.decision == ("dense" if kernel == "dense_matvec" else "sparse")
        assert choice.reason == ("dense is 3.00x as fast" if kernel == "dense_matvec" else "2.00x as fast as dense")
        assert (choice.measured_us, choice.dense_us) == (pytest.approx(9 if fastest == 3 else 3), pytest.approx(3 if fastest == 3 else 6))
        predicted.append(choice.predicted_us)
    assert predicted[-1] == pytest.approx(3 * 2.125 / 4), "by bytes"


def test_few_narrow_tokens_take_the_fastest_of_several(times: list[float]) -> None:
    """nm_group_matvec, sparse_group_matmul, dense_group_matvec; dense in float32 for the account."""
    times[:] = [2e-6, 9e-6, 3e-6, 4e-6]
    [choice] = chosen(few(Prune(pattern="2:4"), Quantize(), Pack()), [FEW], measure=True)
    assert choice.kernel.startswith("nm_group_matvec ")
    assert choice.reason == "int8: 2.00x as fast as dense float32, 1.50x as fast as dense int8"
    times[:] = [4e-6, 9e-6, 2e-6, 3e-6]
    [choice] = chosen(few(Prune(pattern="2:4"), Quantize(), Pack()), [FEW], measure=True)
    assert choice.decision == "dense" and choice.kernel.startswith("dense_group_matvec ")
    assert choice.reason == "int8: 1.50x as fast as dense float32, dense int8 is 2.00x as fast"


def test_layers_alike_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def fake(calls: Mapping[str, Any], **_: Any) -> dict[str, Timing]:
        asked.append(len(calls))
        return {name: Timing(name, (1e-6,) * 3) for name in calls}

    monkeypatch.setattr(backend, "interleave", fake)
    torch.manual_seed(0)
    layer = nn.Linear(64, 64)
    alike = packed(fixed(nn.Sequential(*(copy.deepcopy(layer) for _ in range(3))), FEW), "2:4", 0.5)
    assert len(check(alike, [FEW], measure=True)) == 3
    assert asked == [4]


@pytest.mark.parametrize("factors_us", [1.0, 4.0])
def test_factors_of_few_tokens_against_the_dense_kernel_of_few_tokens(times: list[float], factors_us: float) -> None:
    times[:] = [factors_us * 1e-6, 2e-6]
    torch.manual_seed(0)
    [choice] = chosen(structured(fixed(nn.Linear(64, 64), FEW), "low_rank:4"), [FEW], measure=True)
    assert choice.kernel.startswith("structured_matmul" if factors_us < 2 else "dense_matvec")


TOKENS = random(128, 32)  # two tiles: factors may be one kernel


@cache
def low_rank() -> Any:
    torch.manual_seed(0)
    return structured(fixed(nn.Sequential(nn.Linear(32, 24), nn.ReLU()), TOKENS), "low_rank:4")


@pytest.mark.parametrize(("fused", "apart"), [(1e-6, 2e-6), (2e-6, 1e-6)])
def test_the_faster_chain_stays(times: list[float], fused: float, apart: float) -> None:
    times[:] = [fused, apart, 3e-6]
    [choice] = chosen(low_rank(), [TOKENS], measure=True)
    assert (choice.site, choice.decision, choice.reason) == ("0", "structured", "3.00x as fast as dense")
    assert (" then " in choice.kernel) == (apart < fused)
    assert (choice.measured_us, choice.dense_us) == (pytest.approx(1), pytest.approx(3))
    assert choice.predicted_us == pytest.approx(3 * 4 * (32 + 24) / (32 * 24))


def test_the_product_stays_where_it_is_faster(times: list[float]) -> None:
    times[:] = [4e-6, 3e-6, 2e-6]
    [choice] = check(low_rank(), [TOKENS], measure=True)
    assert choice.decision == "dense"
    assert choice.kernel.startswith("dense_matmul ")
    assert (choice.measured_us, choice.dense_us) == (pytest.approx(3), pytest.approx(2))
    assert choice.reason == "dense is 1.50x as fast"


def test_without_measuring_what_is_structured_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "interleave", lambda *_, **__: pytest.fail("measured"))
    [choice] = chosen(low_rank(), [TOKENS], measure=False)
    assert (choice.decision, choice.measured_us, choice.dense_us, choice.predicted_us) == ("structured", None, None, None)
    assert choice.reason == "not measured: the target is not this machine"


def test_without_measuring_factors_that_are_more_work_are_multiplied_ahead() -> None:
    torch.manual_seed(0)
    [choice] = chosen(structured(fixed(nn.Linear(32, 24), TOKENS), "armor:8"), [TOKENS], measure=False)
    assert choice.decision == "dense"
    assert choice.kernel.startswith("dense_matmul ")


def test_skipped_blocks_are_timed_once_for_layers_alike(times: list[float]) -> None:
    """One head, with its blocks and with all of them, stands for all heads."""
    times[:] = [1e-6, 2e-6]
    inputs = [random(2, 3, 29, 8, seed=seed) for seed in range(3)] * 2
    blocks = block_map(Grid(2, 3, 4, 5), 3, 8, 0.3)
    module = Parallel([Lambda(scaled_dot_product_attention)] * 2, [3, 3])
    first, second = chosen(reordered(fixed(module, *inputs), blocks, blocks), inputs, measure=True)
    assert first.site != second.site
    for choice in (first, second):
        assert (choice.kernel, choice.decision, choice.reason) == ("block_attention 8x8", "sparse", "2.00x as fast as dense")
        assert (choice.measured_us, choice.dense_us) == (pytest.approx(6), pytest.approx(12))
        assert choice.predicted_us == pytest.approx(12 * blocks.density)


def test_what_is_kept_is_not_timed_again(times: list[float]) -> None:
    """By another chooser, as after a restart: the first was told other times."""
    store: dict[str, list[float]] = {}

    def kept(key: str, measure: Callable[[], list[float]]) -> list[float]:
        if key not in store:
            store[key] = measure()
        return store[key]

    def decisions() -> list[tuple[str, float | None]]:
        chooser = choose.Chooser(HERE, True, kept=kept)
        compiler.choose(graph(), [X], chooser)
        return [(choice.decision, choice.dense_us) for choice in chooser.choices]

    times[:] = [1e-6, 3e-6]
    first = decisions()
    times[:] = [5e-6, 4e-6]
    assert decisions() == first and len(store) == 2
    store.clear()
    assert decisions() != first


def test_structured_layers_and_attentions_are_kept_too(times: list[float]) -> None:
    asked: list[str] = []

    def kept(key: str, measure: Callable[[], list[float]]) -> list[float]:
        asked.append(key)
        return [1.0, 2.0, 3.0, 4.0][: len(measure())]

    attention = fixed(Lambda(nn.functional.scaled_dot_product_attention), *(x := [random(1, 3, 24, 8) for _ in range(3)]))
    models = [
        (structured(fixed(nn.Linear(64, 64), FEW), "low_rank:4"), [FEW]),
        (reordered(attention, block_map(Grid(2, 3, 4), 3, 8, 0.3)), x),
    ]
    for model, inputs in models:
        compiler.choose(model, inputs, choose.Chooser(HERE, True, kept=kept))
    assert len(set(asked)) == 2 and not any("0x" in key for key in asked)
