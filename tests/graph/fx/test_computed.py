from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from sparsecc.graph.fx.computed import computed, copied, plain, writable, write


class Masking(nn.Module):
    """A mask of somebody's own."""

    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.keep


def layer() -> nn.Linear:
    return nn.Linear(16, 12)


def masked() -> nn.Module:
    return parametrize.register_parametrization(layer(), "weight", Masking((torch.rand(12, 16) < 0.7).float()))


def by_torch() -> nn.Module:
    return prune.random_unstructured(layer(), "weight", 0.3)


CARRY: dict[str, Callable[[], nn.Module]] = {
    "plain": layer,
    "own mask": masked,
    "torch's mask": by_torch,
    "weight_norm of old": lambda: weight_norm(layer()),
    "weight_norm": lambda: parametrizations.weight_norm(layer()),
}
REFUSE: dict[str, Callable[[], nn.Module]] = {
    "spectral_norm of old": lambda: spectral_norm(layer()),
    "spectral_norm": lambda: parametrizations.spectral_norm(layer()),
    "orthogonal": lambda: parametrizations.orthogonal(layer()),
}
every_kind = pytest.mark.parametrize("make", [*CARRY.values(), *REFUSE.values()], ids=[*CARRY, *REFUSE])


@pytest.mark.filterwarnings("ignore")
@every_kind
def test_a_plain_copy_computes_the_same_and_the_module_stays_as_it_was(make: Callable[[], nn.Module]) -> None:
    module, x = make(), torch.randn(3, 16)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    twin = plain(module)
    assert type(twin) is nn.Linear
    assert sorted(twin.state_dict()) == ["bias", "weight"]
    assert twin.bias is module.bias
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    torch.testing.assert_close(twin(x), module.eval()(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", CARRY.values(), ids=CARRY.keys())
def test_zeros_are_written_by_way_of_what_a_weight_is_computed_from(make: Callable[[], nn.Module]) -> None:
    module = make()
    keys, places = list(module.state_dict()), [id(tensor) for tensor in module.parameters()]
    value = plain(module).weight.detach().clone()  # type: ignore[union-attr, operator]
    value[:, ::2] = 0
    value[3] = 0  # a whole output, which has no direction
    assert writable(module, "weight") is None
    assert write(module, "weight", value) is None
    assert list(module.state_dict()) == keys
    assert [id(tensor) for tensor in module.parameters()] == places
    module(torch.randn(3, 16))
    torch.testing.assert_close(module.weight.detach(), value)  # type: ignore[union-attr, operator]
    assert not module.weight[value == 0].any()  # type: ignore[index]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", REFUSE.values(), ids=REFUSE.keys())
def test_where_zeros_do_not_survive_everything_is_as_it_was(make: Callable[[], nn.Module]) -> None:
    module = make()
    before, value = {name: tensor.clone() for name, tensor in module.state_dict().items()}, torch.randn(12, 16) * (torch.rand(12, 16) < 0.5)
    for refused in (writable(module, "weight"), write(module, "weight", value)):
        assert refused is not None
        assert refused.reason.startswith("its weight is computed (")
        assert "zeros do not survive" in refused.reason
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module.training


def test_a_module_that_torch_cannot_copy() -> None:
    module = by_torch()
    module.weight = module.get_parameter("weight_orig") * module.get_buffer("weight_mask")  # as after a forward pass
    twin = copied(module)
    assert computed(twin) == ["weight"]
    assert torch.equal(twin.weight_orig, module.weight_orig)  # type: ignore[arg-type]
    assert twin.weight_orig is not module.weight_orig
