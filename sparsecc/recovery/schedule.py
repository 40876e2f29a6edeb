"""Learning the kept weights of layers by gradient descent: when to take which sample, what is learnt, and how far it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparsecc.graph.base import Graph
from sparsecc.graph.sites import WeightSite
from sparsecc.recovery import checkpoint as checkpoints

_BETAS = 0.9, 0.95
_WARMUP = 0.05  # of the steps
_LOOKS = 20  # at the samples held out, on the way
_LEAST = 1e-3  # of the usual power of what is learnt: what has less counts as if it had as much


@dataclass(frozen=True)
class Learnt:
    """weights, biases: by site name.  before, after: `error_of` what it learns to give, on the samples held out."""

    weights: dict[str, Tensor]
    biases: dict[str, Tensor]
    before: float
    after: float


@dataclass(frozen=True)
class Schedule:
    """fitted, held: indices of samples.  dtype: of matrix products while learning."""

    steps: int
    learning_rate: float
    fitted: Sequence[int]
    held: Sequence[int]
    dtype: str
    seed: int

    def index(self, step: int) -> int:
        """Of the sample. A function of the step alone, so that a run that was stopped goes on as it would have."""
        round_, place = divmod(step, len(self.fitted))
        order = torch.randperm(len(self.fitted), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + round_))
        return self.fitted[int(order[place])]

    def looks(self, step: int) -> bool:
        """Whether it is time to judge by the samples held out."""
        return (step + 1) % max(self.steps // _LOOKS, 1) == 0 or step + 1 == self.steps

    def rate(self, step: int) -> float:
        """Warm-up, then a cosine to zero."""
        warm = max(_WARMUP * self.steps, 1)
        return self.learning_rate * min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1.0))))


@dataclass
class State:
    """What learns, and how far it is. weights, biases: what is learnt, by site, in float32.  dtypes: those of the layers.
    step: how many are done.  before, best: errors on what is held out.
    kept: the weights and biases at `best`."""

    weights: dict[str, Tensor]
    biases: dict[str, Tensor]
    dtypes: dict[str, torch.dtype]
    step: int = 0
    before: float = math.inf
    best: float = math.inf
    kept: tuple[dict[str, Tensor], dict[str, Tensor]] = field(init=False)
    zeros: dict[str, Tensor] = field(init=False)

    @classmethod
    def of(cls, sites: Sequence[WeightSite]) -> State:
        weights = {site.name: _master(site.weight) for site in sites}
        biases = {site.name: _master(site.bias) for site in sites if site.bias is not None}
        return cls(weights, biases, {site.name: site.weight.dtype for site in sites})

    def __post_init__(self) -> None:
        self.zeros = {name: weight.detach() == 0 for name, weight in self.weights.items()}
        self.kept = self.snapshot()
        self._adam = torch.optim.Adam(self.tensors().values(), betas=_BETAS, fused=True)

    def tensors(self) -> dict[str, Tensor]:
        return {**{f"weight.{name}": w for name, w in self.weights.items()}, **{f"bias.{name}": b for name, b in self.biases.items()}}

    def given(self) -> dict[str, tuple[Tensor, Tensor | None]]:
        return {
            name: (weight.to(self.dtypes[name]), self.biases[name].to(self.dtypes[name]) if name in self.biases else None)
            for name, weight in self.weights.items()
        }

    def move(self, rate: float) -> None:
        """One step of Adam on the gradients that are there. A zero never has a gradient, and so stays one."""
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad.masked_fill_(self.zeros[name], 0.0)
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()
        self._adam.zero_grad()
        self.step += 1

    def judge(self, error: float) -> None:
        """Keep what is learnt so far where its error is the least yet."""
        if error < self.best:
            self.best, self.kept = error, self.snapshot()

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        copies = ({name: t.detach().to(self.dtypes[name], copy=True) for name, t in of.items()} for of in (self.weights, self.biases))
        return next(copies), next(copies)

    def found(self) -> Learnt:
        return Learnt(*self.kept, self.before, self.best)

    def save(self, path: str, key: str) -> None:
        moments = {
            f"{moment}.{name}": self._adam.state[tensor][moment]
            for name, tensor in self.tensors().items()
            for moment in ("exp_avg", "exp_avg_sq")
            if tensor in self._adam.state
        }
        kept = {
            **{f"kept.weight.{name}": w for name, w in self.kept[0].items()},
            **{f"kept.bias.{name}": b for name, b in self.kept[1].items()},
        }
        numbers = {"step": self.step, "before": self.before, "best": self.best}
        checkpoints.save(path, key, {**self.tensors(), **moments, **kept}, numbers)

    def load(self, path: str, key: str) -> None:
        """Nothing happens where there is no such file yet."""
        loaded = checkpoints.load(path, key)
        if loaded is None:
            return
        tensors, numbers = loaded
        self.step, self.before, self.best = int(numbers["step"]), numbers["before"], numbers["best"]
        self.kept = (
            {name: tensors[f"kept.weight.{name}"] for name in self.weights},
            {name: tensors[f"kept.bias.{name}"] for name in self.biases},
        )
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(tensors[name])
                if f"exp_avg.{name}" in tensors:
                    moments = {moment: tensors[f"{moment}.{name}"].to(tensor.device) for moment in ("exp_avg", "exp_avg_sq")}
                    self._adam.state[tensor] = {"step": torch.tensor(float(self.step), device=tensor.device), **moments}


def key_of(setting: Any, sites: Sequence[WeightSite], models: Sequence[Graph], samples: Sequence[Sequence[Tensor]]) -> str:
    """Of a call, for checkpoints: settings, tensors and samples are those of no other one. Operators of the model are not looked at."""
    tensors = [tensor for model in models for tensor in model.tensors()]
    return checkpoints.key((setting, [site.name for site in sites]), [*tensors, *(tensor for sample in samples for tensor in sample)])


def _master(tensor: Tensor) -> Tensor:
    """What is learnt of a weight: float32 and contiguous, which Adam's fused kernel counts on."""
    return tensor.detach().float().clone(memory_format=torch.contiguous_format).requires_grad_()


def error_of(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """‖y − y'‖ / ‖y‖ over pairs (y', y); 0 where every y is zero."""
    apart = whole = 0.0
    for found, wanted in pairs:
        apart, whole = apart + float(square(found - wanted)), whole + float(square(wanted))
    return math.sqrt(apart / whole) if whole else 0.0


def relative(found: Tensor, wanted: Tensor, usual: float) -> Tensor:
    """‖y − y'‖² / ‖y‖² for y' and y, where ‖y‖² is at least a small share of the usual: a y of zeros would outweigh all others for good.

    usual: the mean of y² over several inputs; 0 where y is always zero."""
    return square(found.float() - wanted.float()) / square(wanted).clamp(min=_LEAST * usual * wanted.numel() or 1.0)


def mean_square(ys: Iterable[Tensor]) -> float:
    """The mean of y² over all that they hold."""
    squares = count = 0.0
    for y in ys:
        squares, count = squares + float(square(y)), count + y.numel()
    return squares / count if count else 0.0


def square(x: Tensor) -> Tensor:
    return x.float().square().sum()
