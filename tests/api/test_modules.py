from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

import sparsecc
from sparsecc.errors import ModelError, RecipeError, SparseccError, UserError
from tests.train.problem import weight_of

HALF = {"passes": [{"prune": {"pattern": "2:4"}}, "pack"]}


class Net(nn.Module):
    """Batch norms that the trace folds away, a weight of no module, dropout, a dict of outputs."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 32, 3, bias=False), nn.BatchNorm2d(32)
        self.first, self.drop, self.second = nn.Linear(32, 64), nn.Dropout(0.5), nn.Linear(64, 32)
        self.own = nn.Parameter(torch.randn(32, 64))
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean):
            nn.init.normal_(tensor)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).flatten(2).mT
        return {"y": self.drop(self.second(torch.relu(self.first(x)))), "z": x @ self.own}


def kept(weight):
    """How many of each four inputs; of a convolution along the channels of a tap."""
    matrix = weight.permute(0, 2, 3, 1).flatten(1) if weight.dim() == 4 else weight
    return (matrix != 0).unflatten(1, (-1, 4)).sum(2)


def test_layers_of_a_module_without_a_trace():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), prune.random_unstructured(nn.Linear(64, 64), "weight", 0.3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = sparsecc.prune_module(model, HALF)
    assert type(pruned) is nn.Sequential
    assert list(pruned.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all((kept(layer.weight) <= 2).all() for layer in (pruned[0], pruned[2]))
    assert not weight_of(pruned, "2")[before["2.weight_mask"] == 0].any()


def test_in_place_the_parameters_are_those_that_an_optimizer_has():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), parametrizations.weight_norm(nn.Linear(64, 64)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert sparsecc.prune_module(model, HALF, inplace=True) is model
    assert [id(p) for p in model.parameters()] == [id(p) for p in optimizer.param_groups[0]["params"]]
    assert (kept(model[0].weight) == 2).all()
    assert (kept(model[2].weight) == 2).all()


def test_what_cannot_hold_zeros_is_left_and_named():
    model = nn.Sequential(nn.Linear(64, 64), parametrizations.spectral_norm(nn.Linear(64, 64)))
    with pytest.warns(UserWarning, match="left as they are: layer '1': its weight is computed"):
        pruned = sparsecc.prune_module(model, HALF)
    assert (kept(weight_of(pruned, "0")) == 2).all()
    assert weight_of(pruned, "1").all()
    with pytest.raises(UserError, match=r"layer '1': its weight is computed \(SpectralNorm\)"):
        sparsecc.prune_module(model, {"passes": [{"prune": {"targets": ["1"]}}]})
    with pytest.raises(UserError, match="no layer was pruned: layer '0': its weight is computed"):
        sparsecc.prune_module(nn.Sequential(model[1]), HALF)


def test_a_trace_with_folded_norms_is_written_back_to_what_it_was_folded_from():
    model, samples = Net().train(), [torch.randn(2, 8, 8, 8) for _ in range(6)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = {"passes": [{"prune": {"criterion": "sparsegpt", "pattern": "2:4"}}, {"recover": {"variations": 0}}]}
    with pytest.warns(UserWarning, match="layer 'conv': a batch norm is part of it in the trace"):
        pruned = sparsecc.prune_module(model, recipe, calibration=samples)
    assert isinstance(pruned, Net)
    assert pruned.training
    assert list(pruned.state_dict()) == list(before)
    for name in ("conv.weight", "first.weight", "second.weight"):
        assert (kept(pruned.get_parameter(name)) == 2).all()
    assert (kept(pruned.own.T) == 2).all()
    for name in ("norm.weight", "norm.running_mean"):
        assert torch.equal(pruned.state_dict()[name], before[name])
    x = samples[0]
    with torch.no_grad():
        away, near = (
            functional.cosine_similarity(m.eval()(x)["z"].flatten(), model.eval()(x)["z"].flatten(), dim=0) for m in (Net(), pruned)
        )
    assert near > 0.7 > away


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ([{"quantize": {}}], r"passes\[0\]\.quantize: changes what layers are"),
        ([{"prune": {}}, {"permute": {"pattern": "2:4", "inputs": True}}], r"passes\[1\]\.permute\.inputs: puts gathers"),
        (["pack"], "has no pass that changes weights"),
        ([{"prune": {"criterion": "wanda"}}], "needs calibration inputs"),
        ([{"prune": {"targets": ["1"]}}], "'1' matches no layer"),
    ],
)
def test_recipes_that_a_module_cannot_hold(recipe, message):
    with pytest.raises(RecipeError, match=message):
        sparsecc.prune_module(nn.Sequential(nn.Linear(64, 64)), {"passes": recipe})


def test_other_mistakes():
    with pytest.raises(UserError, match=r"a str is no torch\.nn\.Module; sparsecc\.convert takes ONNX"):
        sparsecc.prune_module("model.onnx", HALF)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="example_inputs: needed to trace"):
        sparsecc.prune_module(nn.Sequential(nn.Linear(64, 64)), HALF, calibration=iter([torch.ones(1, 64)]))
    with pytest.raises(UserError, match="no layer was pruned: layer '0': 64 weights are fewer than min_weights 1024"):
        sparsecc.prune_module(nn.Sequential(nn.Linear(8, 8)), HALF)


def test_modules_that_hold_nothing_to_prune():
    with pytest.raises(ModelError, match=r"weight '0\.weight' is on the meta device"):
        sparsecc.prune_module(nn.Sequential(nn.Linear(64, 64, device="meta")), HALF)
    with pytest.raises(ModelError, match="the model is TorchScript, which cannot be traced"):
        sparsecc.prune_module(torch.jit.script(nn.Sequential(nn.Linear(64, 64))), HALF)


def test_a_module_that_holds_what_cannot_be_copied():
    lock: Any = threading.Lock()
    model = nn.Sequential(nn.Linear(64, 64))
    model.lock = lock
    pruned = sparsecc.prune_module(model, HALF)
    assert pruned.lock is model.lock
    assert weight_of(pruned, "0").eq(0).float().mean() == 0.5
    assert not weight_of(model, "0").eq(0).any()


class Otherwise(nn.Module):
    """Gives something else than what is traced."""

    def __init__(self, change):
        super().__init__()
        self.layer, self.change = nn.Linear(64, 64), change

    def forward(self, x):
        y = self.layer(x).clone()
        y[:, 0] = float("-inf")
        return (y,) if torch.compiler.is_exporting() else self.change(y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: (y * 3,), r"output 0 by \S+ of its largest number; nothing was changed"),  # infinite where the trace is, too
        (lambda y: (y.nan_to_num(),), "output 0 holds NaN or infinity in other places"),
        (lambda y: (), "the module gives 0 outputs and its pruned trace 1; nothing was changed"),
    ],
)
def test_a_module_that_gives_something_else_than_its_trace(change, message):
    with pytest.raises(SparseccError, match=message):
        sparsecc.prune_module(Otherwise(change), HALF, (torch.ones(2, 64),))
