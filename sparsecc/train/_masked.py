"""A layer under a mask while it trains: its zeros are in the weight, or only in what the forward pass sees of it."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from sparsecc.graph.sites import WeightSite
from sparsecc.patterns.base import Pattern
from sparsecc.train.base import Soft, View


class Masked(ABC):
    """site: of the module's weight.  weight: the parameter that the optimizer trains.  sparsity: what it is to have in the end.
    keep: bool, in the weight's shape; replaced, never changed in place.
    gradient: of all weights, in the weight's shape, between the backward pass and the step at which the mask changes."""

    def __init__(self, site: WeightSite, module: nn.Module, pattern: Pattern, sparsity: float) -> None:
        assert isinstance(site.stored, nn.Parameter)
        self.site, self.module, self.pattern, self.sparsity = site, module, pattern, sparsity
        self.weight = site.stored
        self.keep = torch.ones_like(self.weight, dtype=torch.bool)
        self.gradient: Tensor | None = None

    def view(self, generator: torch.Generator) -> View:
        gradient = None if self.gradient is None else self.site.to_matrix(self.gradient)
        keep = self.site.to_matrix(self.keep)
        return View(self.site.to_matrix(self.weight.detach()), keep, gradient, self.pattern, self.sparsity, generator)

    @property
    def zeros(self) -> float:
        """Share of the weights that are masked."""
        return 1 - int(self.keep.count_nonzero()) / self.keep.numel()

    @abstractmethod
    def put(self, keep: Tensor, optimizer: Optimizer) -> None:
        """A new mask, in the weight's shape."""

    def restore(self, keep: Tensor) -> None:
        """The mask that the weight and the optimizer's state have been restored with."""
        self.keep = keep

    @abstractmethod
    def before_step(self, step: int, scale: float) -> None:
        """step: how many the optimizer has done.  scale: of the gradients."""

    @abstractmethod
    def after_step(self, step: int) -> None:
        """step: how many the optimizer has done, this one included. The mask may have changed since."""

    @abstractmethod
    def release(self) -> None:
        """The zeros stay in the weight, and nothing else of this."""

    @abstractmethod
    def take_off(self) -> None:
        """The weight stays as it is stored, and nothing else of this."""


class Hard(Masked):
    """Zeros are in the weight. Gradients of masked weights are zero, and so is what the optimizer remembers of them."""

    def __init__(self, site: WeightSite, module: nn.Module, pattern: Pattern, sparsity: float, listening: Callable[[], bool]) -> None:
        """listening: whether the next step of the optimizer is one for which all gradients are wanted."""
        super().__init__(site, module, pattern, sparsity)
        self._listening = listening
        self._hook = self.weight.register_hook(_by(weakref.ref(self)))  # a weight must not keep its masks, which keep everything else

    def mask(self, gradient: Tensor) -> Tensor:
        """Of one backward pass; several may add up to a step, the first of which finds no gradient, or zeros. One that is there from a
        step that was left out goes."""
        if self._listening():
            grad, so_far = self.weight.grad, self.gradient
            if grad is None or (so_far is not None and not grad.any() and so_far[self.keep].any()):
                so_far = None
            self.gradient = gradient.detach().clone() if so_far is None else so_far + gradient.detach()
        return gradient.masked_fill(~self.keep, 0)

    @torch.no_grad()
    def put(self, keep: Tensor, optimizer: Optimizer) -> None:
        """What is masked, and what was until now, starts from zero, in the weight and in the optimizer's state."""
        fresh = ~(self.keep & keep)
        for state in optimizer.state.get(self.weight, {}).values():
            if isinstance(state, Tensor) and state.shape == self.weight.shape:
                state.masked_fill_(fresh, 0)
        self.weight.masked_fill_(fresh, 0)
        self.keep = keep

    def before_step(self, step: int, scale: float) -> None:
        pass

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        self.gradient = None
        self.weight.masked_fill_(~self.keep, 0)

    def release(self) -> None:
        self.take_off()

    def take_off(self) -> None:
        self._hook.remove()


def _by(masks: weakref.ref[Hard]) -> Callable[[Tensor], Tensor]:
    def mask(gradient: Tensor) -> Tensor:
        hard = masks()
        return gradient if hard is None else hard.mask(gradient)

    return mask


class Seen(nn.Module):
    """The parametrization: weight → what the method lets the forward pass see of it."""

    keep: Tensor

    def __init__(self, method: Soft, keep: Tensor) -> None:
        super().__init__()
        self.method, self.step = method, 0
        self.register_buffer("keep", keep, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return self.method.seen(weight, self.keep, self.step)


class Parametrized(Masked):
    """Zeros are in what the forward pass sees."""

    def __init__(self, site: WeightSite, module: nn.Module, pattern: Pattern, sparsity: float, method: Soft) -> None:
        super().__init__(site, module, pattern, sparsity)
        self._method = method
        self._seen = Seen(method, self.keep)
        _parametrize(module, self.weight, self._seen)

    def put(self, keep: Tensor, optimizer: Optimizer) -> None:
        self.restore(keep)

    def restore(self, keep: Tensor) -> None:
        self.keep = self._seen.keep = keep

    @torch.no_grad()
    def before_step(self, step: int, scale: float) -> None:
        if self.weight.grad is not None:
            self.weight.grad += scale * self._method.pull(self.weight, self.keep, step)

    def after_step(self, step: int) -> None:
        self._seen.step = step

    @torch.no_grad()
    def release(self) -> None:
        seen = self.module.weight
        assert isinstance(seen, Tensor)
        self.weight.copy_(seen)
        self.take_off()

    def take_off(self) -> None:
        uncover(self.module)


def uncover(module: nn.Module) -> None:
    """Take the parametrization of a soft method off a layer, if one is there: its weight is again what is stored."""
    if parametrize.is_parametrized(module, "weight") and any(isinstance(part, Seen) for part in module.parametrizations["weight"]):  # type: ignore[index]
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def _parametrize(module: nn.Module, weight: nn.Parameter, by: nn.Module) -> None:
    """Let a module compute its weight from the parameter that it has. torch would write into the parameter by `set_`, after which gradients
    miss the hooks that are there: those by which DistributedDataParallel brings them together."""
    module.weight = nn.Parameter(weight.detach(), weight.requires_grad)
    parametrize.register_parametrization(module, "weight", by)
    of_weight: Any = module.parametrizations["weight"]  # type: ignore[index]
    of_weight.original = weight
