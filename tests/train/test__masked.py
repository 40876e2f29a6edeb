from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from sparsecc.graph.sites import Conv2d, Linear
from sparsecc.patterns.unstructured import Unstructured
from sparsecc.train._masked import Hard, Parametrized
from sparsecc.train.sr_ste import SrSte

GENERATOR = torch.Generator()


def hard(module: nn.Linear, listening: bool = False) -> Hard:
    return Hard(Linear(name="x", stored=module.weight), module, Unstructured(), 0.5, lambda: listening)


def keep_for(module: nn.Linear) -> torch.Tensor:
    return torch.rand(module.weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5


def test_masked_gradients_are_zero_and_the_whole_one_is_there_when_wanted() -> None:
    module, twin = nn.Linear(8, 4), None
    twin = deepcopy(module)
    layer, optimizer = hard(module, listening=True), torch.optim.SGD(module.parameters(), lr=0.1)
    keep = keep_for(module)
    layer.put(keep, optimizer)
    with torch.no_grad():
        twin.weight.mul_(keep)
    for _ in range(2):  # the gradient of a step may come in parts
        x = torch.randn(3, 8)
        module(x).square().sum().backward()
        twin(x).square().sum().backward()
    assert module.weight.grad is not None
    assert twin.weight.grad is not None
    torch.testing.assert_close(module.weight.grad, twin.weight.grad * keep)
    torch.testing.assert_close(layer.view(GENERATOR).gradient, twin.weight.grad)
    layer.after_step(1)
    assert layer.view(GENERATOR).gradient is None


def test_the_gradient_of_a_step_that_was_left_out_is_forgotten() -> None:
    module = nn.Linear(8, 4)
    layer = hard(module, listening=True)
    (module(torch.ones(1, 8)).sum() * torch.inf).backward()
    module.zero_grad()
    module(torch.ones(1, 8)).sum().backward()
    gradient = layer.view(GENERATOR).gradient
    assert gradient is not None
    assert gradient.isfinite().all()


def test_no_gradient_is_kept_otherwise() -> None:
    module = nn.Linear(8, 4)
    layer = hard(module)
    module(torch.ones(1, 8)).sum().backward()
    assert layer.gradient is None


def test_a_weight_that_something_else_fills_is_zero_again_after_the_step() -> None:
    module = nn.Linear(8, 4)
    layer, keep = hard(module), keep_for(module)
    layer.put(keep, torch.optim.SGD(module.parameters(), lr=0.1))
    nn.init.constant_(module.weight, torch.nan)
    layer.after_step(1)
    assert torch.equal(module.weight.isnan(), keep)


def test_the_matrix_of_a_convolution_has_its_channels_innermost() -> None:
    module = nn.Conv2d(4, 6, 3)
    layer = Hard(Conv2d(name="x", stored=module.weight, kernel=(3, 3)), module, Unstructured(), 0.5, lambda: False)
    matrix = layer.view(GENERATOR).weight
    assert torch.equal(matrix[:, 4:8], module.weight[:, :, 0, 1])
    keep = torch.zeros(6, 36, dtype=torch.bool)
    keep[:, 4:8] = True
    layer.put(layer.site.from_matrix(keep), torch.optim.SGD(module.parameters(), lr=0.1))
    assert torch.equal(layer.view(GENERATOR).keep, keep)
    assert int((module.weight != 0).sum()) == 24


def test_a_parametrized_weight_is_the_optimizers_own_before_and_after() -> None:
    module = nn.Linear(8, 4)
    weight = module.weight
    layer = Parametrized(Linear(name="x", stored=weight), module, Unstructured(), 0.5, SrSte(steps=10))
    keep = keep_for(module)
    layer.put(keep, torch.optim.SGD(module.parameters(), lr=0.1))
    assert weight.all()
    assert torch.equal(module.weight != 0, keep)
    assert list(module.state_dict()) == ["bias", "parametrizations.weight.original"]  # masks are the handle's
    layer.release()
    assert module.weight is weight
    assert torch.equal(weight != 0, keep)


def test_hooks_on_the_gradient_of_a_parametrized_weight_are_heard() -> None:
    """DistributedDataParallel has such hooks, put on before the masks and never again."""
    module, heard = nn.Linear(8, 4), []
    weight = module.weight
    grad_fn = weight.view_as(weight).grad_fn
    assert grad_fn is not None
    node = grad_fn.next_functions[0][0]
    assert node is not None
    node.register_hook(lambda *_: heard.append(len(heard)))
    layer = Parametrized(Linear(name="x", stored=weight), module, Unstructured(), 0.5, SrSte(steps=10))
    module(torch.ones(1, 8)).sum().backward()
    layer.release()
    module(torch.ones(1, 8)).sum().backward()
    assert heard == [0, 1]
