"""What a method of training with masks is: options, a calendar of changes, and how one layer's mask changes. It knows no model.

A method sees a weight as its matrix [rows, cols] = [out, in] (of a convolution: input channels innermost), as patterns do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sparsecc import allocations
from sparsecc.errors import RecipeError
from sparsecc.graph.base import ALL, Targets
from sparsecc.passes.prune import Prune

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sparsecc.patterns.base import Pattern


@dataclass(frozen=True)
class View:
    """A layer at the moment of a change. weight: float[rows, cols].  keep: the mask so far.  gradient: of the loss by all weights, zeros
    included; None where the method needs none or none reached the layer.  sparsity: what the layer is to have in the end."""

    weight: Tensor
    keep: Tensor
    gradient: Tensor | None
    pattern: Pattern
    sparsity: float
    generator: torch.Generator

    @property
    def magnitude(self) -> Tensor:
        """|w|, float64, so that sums over blocks and marks beside them stay exact."""
        return self.weight.detach().abs().double()


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """One member of the family; fields are its options. Steps are those of the optimizer; the first is 1.

    targets: the layers that get masks, as names of modules, kinds (`Linear`, `Conv1d`, `Conv2d`) or `re:` expressions. An empty list means
    every layer.
    ignore: layers that stay dense, in the same form.
    pattern, sparsity, floor, min_weights: as in the pass `prune`.
    allocation: as in the pass `prune`, but for `sensitivity`, which needs a trained model and is refused.
    steps: optimizer steps of the whole training.
    every: steps between changes of the masks.
    begin: no mask changes before this step.
    end: no mask changes after this step. Three quarters of `steps` when not given (`sr_ste`: all of them).
    seed: of everything that is random.
    """

    targets: Targets = ALL
    ignore: Targets = ()
    pattern: str = "unstructured"
    sparsity: float | None = None
    allocation: str = "uniform"
    floor: float | None = None
    min_weights: int = 1024
    steps: int
    every: int = 100
    begin: int = 0
    end: int | None = None
    seed: int = 0

    needs_gradient: ClassVar[bool] = False  # at the steps at which masks change
    share_changed: ClassVar[float] = 0.75
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ()  # options, without steps, that the laws try

    def __post_init__(self) -> None:
        _ = self.prune  # which refuses what no pass can do
        if allocations.create(self.allocation).needs_loss:
            raise RecipeError(f"allocation: {self.allocation} measures a trained model; take erk, uniform or global while it trains")
        if self.steps < 1:
            raise RecipeError(f"steps: {self.steps} is less than 1")
        if self.every < 1:
            raise RecipeError(f"every: {self.every} is less than 1")
        if not 0 <= self.begin < self.last:
            raise RecipeError(f"begin: {self.begin} is not in [0, {self.last}), the steps before the last change of the masks")
        if self.last > self.steps:
            raise RecipeError(f"end: {self.last} is after the last of {self.steps} steps")

    @property
    def prune(self) -> Prune:
        """The pass that would make zeros of this kind at once."""
        return Prune(
            targets=self.targets,
            ignore=self.ignore,
            pattern=self.pattern,
            sparsity=self.sparsity,
            allocation=self.allocation,
            floor=self.floor,
            min_weights=self.min_weights,
        )

    @property
    def last(self) -> int:
        """The step of the last change."""
        return max(1, int(self.share_changed * self.steps)) if self.end is None else self.end

    def changes_at(self, step: int) -> bool:
        """Whether masks change after this step."""
        due = (step - self.begin) % self.every == 0 or step == self.last
        return due and max(1, self.begin) <= step <= self.last

    def progress(self, step: int) -> float:
        """How far the changes have come, from 0 at `begin` to 1 at the last."""
        return min(1.0, max(0.0, (step - self.begin) / (self.last - self.begin)))

    def settled(self, step: int) -> bool:
        """Whether masks have what was asked for after this step."""
        return step >= self.last

    @abstractmethod
    def first(self, view: View) -> Tensor:
        """keep: bool[rows, cols], before the first step. `view.keep` keeps all."""

    @abstractmethod
    def change(self, view: View, step: int) -> Tensor:
        """keep: bool[rows, cols], after a step at which masks change. At `last` it has the sparsity asked for."""


@dataclass(frozen=True, kw_only=True)
class Soft(Method):
    """A method under which the stored weights stay dense while they train, and the forward pass sees them through the mask."""

    @abstractmethod
    def seen(self, weight: Tensor, keep: Tensor, step: int) -> Tensor:
        """What the forward pass reads, differentiable by `weight`. Both in the weight's own shape."""

    @abstractmethod
    def pull(self, weight: Tensor, keep: Tensor, step: int) -> Tensor:
        """What is added to the gradient before step `step` + 1 of the optimizer."""
