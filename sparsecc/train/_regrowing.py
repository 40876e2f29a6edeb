"""What the methods share that keep the number of weights and exchange some of them now and then."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecc.errors import RecipeError
from sparsecc.registry import did_you_mean
from sparsecc.train._masks import cosine, regrown
from sparsecc.train.base import Method, View

STARTS = ("magnitude", "random")


@dataclass(frozen=True, kw_only=True)
class Regrowing(Method):
    """Sparse from the first step on.

    share: the share of the kept weights that is exchanged at the first change.
    start: how the first mask is chosen, by `magnitude` or at `random`. `magnitude` suits trained weights; for untrained ones, on a planted
    problem with five seeds, it was as good as `random`, which the papers take.
    """

    share: float = 0.3
    start: str = "magnitude"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1:
            raise RecipeError(f"share: {self.share} is not in (0, 1); it is the part of the kept weights that is exchanged")
        if self.start not in STARTS:
            raise RecipeError(f"start: no {self.start!r}{did_you_mean(self.start, list(STARTS))}")

    def settled(self, step: int) -> bool:
        return True

    def first(self, view: View) -> Tensor:
        return view.pattern.project(self.worth(view), view.sparsity)

    def worth(self, view: View) -> Tensor:
        """What `start` goes by."""
        return view.magnitude if self.start == "magnitude" else uniform(view)

    def exchanged(self, step: int) -> float:
        """The share that is exchanged after this step."""
        return self.share * cosine(self.progress(step))

    @abstractmethod
    def growth(self, view: View) -> Tensor | None:
        """float[rows, cols]: where weights grow, the highest first. None: nobody knows, so that none is exchanged this time."""

    def change(self, view: View, step: int) -> Tensor:
        growth = self.growth(view)
        return view.keep if growth is None else regrown(view, view.sparsity, self.exchanged(step), growth)


def uniform(view: View) -> Tensor:
    """Random scores in [0, 1), the same on every device."""
    return torch.rand(view.keep.shape, generator=view.generator, dtype=torch.float64).to(view.keep.device)


def steepness(view: View) -> Tensor | None:
    """The gradient's magnitude."""
    return None if view.gradient is None else view.gradient.abs()
