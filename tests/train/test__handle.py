from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn

from sparsecc.errors import UserError
from sparsecc.graph.sites import WeightSite
from sparsecc.passes.prune import Prune
from sparsecc.train._handle import Handle
from sparsecc.train._recipe import read
from sparsecc.train.gmp import Gmp
from tests.passes.fake import FakeGraph, linear
from tests.train.problem import adam, attached, batches, step, student, weight_of


def test_layers_with_their_zeros_or_reasons() -> None:
    _, handle = attached("set", sparsity=0.75, min_weights=1000)
    first, second = handle.layers
    assert (first.name, first.kind, first.shape, first.pattern, first.sparsity) == ("0", "Linear", (32, 48), "unstructured", 0.75)
    assert second.sparsity == 0
    assert str(handle).splitlines() == [
        "0  32x48  unstructured, 75.0% zeros",
        "2  16x32  dense: 512 weights are fewer than min_weights 1000",
    ]


def test_a_layer_that_stays_dense_trains_as_always() -> None:
    model = student()
    optimizer = adam(model)
    attached("set", model, optimizer, sparsity=0.75, min_weights=1000)
    for x, y in batches(3):
        step(model, optimizer, x, y)
    assert weight_of(model, "2").all()


@pytest.mark.parametrize("method", ["gmp", "cast", "granet"])
def test_finishing_early_is_refused_unless_it_is_meant(method: str) -> None:
    model = student()
    optimizer = adam(model)
    _, handle = attached(method, model, optimizer, pattern="1:4", every=5)
    for x, y in batches(7):
        step(model, optimizer, x, y)
    with pytest.raises(UserError, match=r"finish\(\) after step 7: masks change until step 30 of 40; .* finish\(early=True\)"):
        handle.finish()
    handle.finish(early=True)
    assert [layer.sparsity for layer in handle.layers] == [0.75, 0.75]
    assert float((weight_of(model) == 0).float().mean()) == 0.75


@pytest.mark.parametrize("method", ["set", "rigl", "srigl", "sr_ste"])
def test_masks_that_are_complete_may_be_finished_any_time(method: str) -> None:
    model, handle = attached(method, sparsity=0.75)
    handle.finish()
    assert float((weight_of(model) == 0).float().mean()) == 0.75


@pytest.mark.parametrize("to_none", [True, False])
def test_a_step_that_a_grad_scaler_leaves_out_does_not_count(to_none: bool) -> None:
    model = student()
    optimizer = adam(model)
    _, handle = attached("rigl", model, optimizer, sparsity=0.75, every=2)
    scaler = torch.amp.GradScaler("cpu")
    for i, (x, y) in enumerate(batches(3)):
        scaler.scale((model(x) - y).square().mean() * (torch.inf if i == 1 else 1)).backward()
        gradient = handle._masked["0"].gradient
        assert i == 1 or gradient is None or gradient.isfinite().all()
        assert (gradient is not None) == (i > 0)  # masks change after the second step
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=to_none)
    assert handle.step == 2
    assert weight_of(model).isfinite().all()
    assert handle.layers[0].sparsity == 0.75


def test_states_of_others_are_refused() -> None:
    _, handle = attached("set")
    with pytest.raises(UserError, match="this state is one of method rigl, not of set"):
        handle.load_state_dict(attached("rigl")[1].state_dict())
    with pytest.raises(UserError, match=r"layer '2': the state has no mask, the model \(16, 32\)"):
        handle.load_state_dict(attached("set", targets=["0"])[1].state_dict())
    with pytest.raises(UserError, match=r"layer '0': the state has \(32, 8\), the model \(32, 48\)"):
        handle.load_state_dict(attached("set", nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16)))[1].state_dict())


def test_the_state_goes_through_a_file(tmp_path: Path) -> None:
    _, handle = attached("set", sparsity=0.75, seed=5)
    torch.save(handle.state_dict(), tmp_path / "masks.pt")
    _, other = attached("set", student(seed=4), sparsity=0.75)
    other.load_state_dict(torch.load(tmp_path / "masks.pt", weights_only=True))
    assert torch.equal(other.state_dict()["masks"]["0"], handle.state_dict()["masks"]["0"])


def test_what_is_no_optimizer() -> None:
    with pytest.raises(UserError, match=r"optimizer: a list is no torch\.optim\.Optimizer"):
        attached("set", optimizer=[])  # type: ignore[arg-type]


@pytest.mark.parametrize("methods", [("gmp", "rigl"), ("gmp", "sr_ste"), ("sr_ste", "sr_ste")])
def test_a_second_attach_is_refused_until_the_first_is_finished(methods: tuple[str, str]) -> None:
    first, second = methods
    model, handle = attached(first, targets=["0"])
    weight = weight_of(model).clone()
    with pytest.raises(UserError, match=r"layer '0': masks of another attach\(\) lie on it; finish\(\) that one first"):
        attached(second, model)
    assert torch.equal(weight_of(model), weight)
    attached(second, model, targets=["2"])
    handle.finish(early=True)
    attached(second, model, targets=["0"])


@pytest.mark.parametrize(("method", "dense"), [("rigl", False), ("sr_ste", True)])
def test_masks_whose_handle_and_optimizer_are_gone_are_in_nobodys_way(method: str, dense: bool) -> None:
    """Weights are those that are stored: with the zeros where the method makes them there."""
    model = student()
    attached(method, model, sparsity=0.75, targets=["0"])
    weight = dict(model.named_parameters())["0.parametrizations.weight.original" if dense else "0.weight"]
    _, handle = attached("set", model, sparsity=0.75, targets=["0"], begin=3)
    assert [name for name, parameter in model.named_parameters() if parameter is weight] == ["0.weight"]
    model(torch.ones(1, 48)).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight != 0, handle._masked["0"].keep)
    handle.finish(early=True)


def test_masks_stay_as_long_as_the_optimizer_that_keeps_them() -> None:
    model = student()
    optimizer = adam(model)
    attached("set", model, optimizer, sparsity=0.75)
    with pytest.raises(UserError, match=r"masks of another attach\(\) lie on it"):
        attached("set", model)
    for x, y in batches(2):
        step(model, optimizer, x, y)
    assert float((weight_of(model) == 0).float().mean()) == 0.75


@pytest.mark.parametrize("method", ["rigl", "sr_ste"])
def test_an_attach_that_fails_leaves_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = student(), []
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def fail(self: object, view: object) -> torch.Tensor:
        calls.append(view)
        raise RuntimeError("no first mask")

    with monkeypatch.context() as patched:
        patched.setattr(type(read({"method": method, "steps": 10})), "first", fail)
        with pytest.raises(RuntimeError, match="no first mask"):
            attached(method, model)
    assert len(calls) == 1
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    attached(method, model)


def test_layers_that_are_not_meant_may_have_no_shape() -> None:
    model = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.LazyLinear(4))
    with pytest.raises(UserError, match="layer '2': its weight has no shape yet"):
        attached("set", model, adam(student()))
    _, handle = attached("set", model, torch.optim.SGD(model[0].parameters(), 0.1), targets=["0"])
    assert [layer.name for layer in handle.layers] == ["0"]


def one_process(rank: int, folder: str) -> None:
    """Each has batches of its own."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = student()
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = adam(model)
    _, handle = attached("rigl", model, optimizer, sparsity=0.75, every=2, steps=10)
    first = handle.state_dict()["masks"]
    for x, y in batches(5, seed=rank):
        step(parallel, optimizer, x, y)
    softly = student()  # zeros in what the forward pass sees
    parallel = nn.parallel.DistributedDataParallel(softly)
    optimizer = adam(softly)
    _, soft = attached("sr_ste", softly, optimizer, sparsity=0.75, steps=3)
    for x, y in batches(2, seed=rank):
        step(parallel, optimizer, x, y)
    soft.finish(early=True)
    for x, y in batches(2, seed=rank):
        step(parallel, optimizer, x, y)
    torch.save([first, handle.state_dict()["masks"], {**model.state_dict(), **_named(softly)}], f"{folder}/{rank}.pt")
    divided = student()
    fully_shard(divided, mesh=init_device_mesh("cpu", (2,)))
    with pytest.raises(UserError, match="layer '0': its weight is divided over processes"):
        attached("gmp", divided)
    distributed.destroy_process_group()


def _named(softly: nn.Module) -> dict[str, torch.Tensor]:
    return {f"softly.{name}": tensor for name, tensor in softly.state_dict().items()}


def test_several_processes_come_to_the_same_masks(tmp_path: Path) -> None:
    spawn(one_process, (str(tmp_path),), nprocs=2)
    (first, masks, weights), (_, others, other_weights) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, keep in masks.items():
        assert not torch.equal(keep, first[name])
        assert torch.equal(keep, others[name])
    for name, weight in weights.items():
        assert torch.equal(weight, other_weights[name])


@pytest.mark.parametrize("allocation", ["uniform", "erk", "global"])
def test_the_sparsity_of_all_is_divided_over_the_layers_as_prune_does(allocation: str) -> None:
    trained = [nn.Linear(64, 64), nn.Linear(64, 256)]
    nn.init.normal_(trained[1].weight, std=0.01)
    model = nn.Sequential(*trained)
    method = Gmp(steps=10, sparsity=0.8, pattern="4x1", allocation=allocation)
    layers = [linear(str(i), stored=layer.weight.detach().clone()) for i, layer in enumerate(trained)]
    pruned = Prune(sparsity=0.8, pattern="4x1", allocation=allocation).apply(FakeGraph(layers)).graph.sites(WeightSite)
    handle = Handle(model, method, torch.optim.SGD(model.parameters(), lr=0.1))
    handle.finish(early=True)
    for layer, site in zip(trained, pruned, strict=True):
        assert torch.equal(layer.weight == 0, site.weight == 0)
