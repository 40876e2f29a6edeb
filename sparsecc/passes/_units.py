"""Which neurons or heads matter least, and what the layer that reads them becomes without them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecc.least_squares import dampened, inverse_of, solve

# of the covariance's mean diagonal; from 0.01 to 0.1 MiniLM without 25 % of its neurons stays within 0.002 (64 samples: 0.004)
DAMPING = 0.03
_ROUNDS = 32  # in which units go under `obs`; the others make up for those of one round before the next is chosen


@dataclass(frozen=True)
class Inputs:
    """What enters the reader. means: float64[cols].  products: XᵀX / tokens less what the bias takes up, float64[cols, cols]."""

    means: Tensor
    products: Tensor

    @classmethod
    def of(cls, means: Tensor, hessian: Tensor, bias: bool) -> Inputs:
        """bias: whether the reader has one, which then takes up the means of what goes."""
        means = means.double() if bias else torch.zeros_like(means, dtype=torch.float64)
        return cls(means, hessian.double() - torch.outer(means, means))


def contributions(weight: Tensor, inputs: Inputs, units: int) -> Tensor:
    """float64[units]: tr(Wᵤ Cᵤᵤ Wᵤᵀ), the mean square error of the outputs when a unit goes alone and nothing makes up for it but the
    bias. weight: [rows, cols], float64."""
    return (_grams(weight, units) * _blocks(inputs.products, units)).sum((1, 2))


def magnitudes(written: Tensor, constant: Tensor, weight: Tensor, units: int) -> Tensor:
    """float64[units]: ‖[rows, constant]‖ · ‖columns‖. written: [rows of all units, in], the weight of the layer that writes them.
    constant: float64[cols], what the units give whatever the inputs are."""
    parts = written.double().reshape(units, -1), constant.reshape(units, -1)
    return torch.cat(parts, 1).norm(dim=1) * weight.unflatten(1, (units, -1)).norm(dim=(0, 2))


def least(scores: Tensor, dead: Tensor, drop: int) -> Tensor:
    """int64[units - drop]: which units stay, in their order; the dead go first, of equal ones that with the higher index."""
    order = torch.where(dead, -1.0, scores).flip(0).sort(stable=True).indices
    return (len(scores) - 1 - order[drop:]).sort().values


def by_least_squares(weight: Tensor, inputs: Inputs, dead: Tensor, drop: int) -> tuple[Tensor, Tensor]:
    """The units that stay, int64, and the weight [rows, cols left] with which they make up for the others.

    A unit costs tr(Wᵤ ([C⁻¹]ᵤᵤ)⁻¹ Wᵤᵀ), the least error of the outputs that any change of the other columns leaves (Hassibi and Stork,
    Optimal Brain Surgeon, 1993, for several columns at once). Those that cost least go in rounds, W and C⁻¹ follow each.
    """
    units = torch.arange(len(dead), device=dead.device)
    inverse = _inverse(inputs.products)
    size = len(inverse) // len(units)
    rounds = min(drop, _ROUNDS)
    for turn in range(rounds):
        count = drop * (turn + 1) // rounds - drop * turn // rounds
        costs = torch.linalg.solve(_blocks(inverse, len(units)), _grams(weight, len(units))).diagonal(dim1=1, dim2=2).sum(1)
        stay = least(costs, dead[units], count)
        gone = torch.ones_like(units, dtype=torch.bool)
        gone[stay] = False
        gone = gone.repeat_interleave(size)
        pull = torch.linalg.solve(inverse[gone][:, gone], inverse[gone][:, ~gone])
        weight, inverse = weight[:, ~gone] - weight[:, gone] @ pull, inverse[~gone][:, ~gone] - inverse[~gone][:, gone] @ pull
        units = units[stay]
    return units, weight


def within(weight: Tensor, left: Tensor, inputs: Inputs, columns: Tensor, keep: Tensor) -> Tensor:
    """float64[rows, cols left]: what makes up best for the columns that went where some weights have to stay zero.

    weight: [rows, cols], before any went.  left: what makes up for them without that, to begin from.  columns: int64, those left.
    keep: bool, in the shape of `left`."""
    products = dampened(inputs.products, DAMPING)
    hessian = products[columns][:, columns]
    return solve(hessian, inverse_of(hessian), weight @ products[:, columns], left, keep)


def _inverse(products: Tensor) -> Tensor:
    """Of the dampened matrix; of the identity where all is zero."""
    return torch.cholesky_inverse(torch.linalg.cholesky(dampened(products, DAMPING)))


def _grams(weight: Tensor, units: int) -> Tensor:
    """float64[units, size, size]: WᵤᵀWᵤ"""
    columns = weight.double().unflatten(1, (units, -1)).permute(1, 2, 0)
    return columns @ columns.mT


def _blocks(square: Tensor, units: int) -> Tensor:
    """[units, size, size]: the blocks on the diagonal of a matrix."""
    size = len(square) // units
    return square.reshape(units, size, units, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
