"""What pruning costs the model to second order, from a few gradients: products with the curvature and its inverse, neither ever formed."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.linalg has no types.

from __future__ import annotations

import torch
from torch import Tensor

_BYTES = 2**26  # of gradients that are multiplied at once


class Curvature:
    """H = λI + (1/m) Σ ggᵀ for each row of a matrix, over the weights of that row: the Fisher information without what joins rows.

    gradients: float[m, rows, cols]; large products are made in their dtype.  damping: λ in shares of the mean diagonal of (1/m) Σ ggᵀ
    over the whole matrix; where all gradients are zero λ is 1, so that H says what magnitude says.

    With A = [g₁ ... g_m]ᵀ/√m every inverse is that of an m×m matrix (Woodbury), and all products take O(m²) for each weight
    (Frantar et al., M-FAC: Efficient Matrix-Free Approximations of Second-Order Information, 2021).
    """

    def __init__(self, gradients: Tensor, damping: float) -> None:
        count, rows, cols = gradients.shape
        power = sum(float(g.double().square().sum()) for g in gradients) / gradients.numel()
        self.ridge = damping * power if power > 0 else 1.0
        step = max(1, _BYTES // (gradients.itemsize * count * cols))
        parts = [slice(start, start + step) for start in range(0, rows, step)]
        # A of several rows at once, float[rows, m, cols]: one copy, as every product would take as long to make it
        self._rows = [(part, (gradients[:, part].transpose(0, 1) / count**0.5).contiguous()) for part in parts]

    def inverse_diagonal(self) -> Tensor:
        """float64[rows, cols]: [H⁻¹]_ii = (1 - aᵢᵀ (λI + AAᵀ)⁻¹ aᵢ) / λ, aᵢ being the columns of A."""
        found = []
        for _, a in self._rows:
            factor = torch.linalg.cholesky(self._dampened(a))
            identity = torch.eye(factor.shape[1], dtype=factor.dtype, device=factor.device)
            whitened = torch.linalg.solve_triangular(factor, identity, upper=False).to(a) @ a
            least = 1 / (self.ridge + a.square().sum(1).double())  # 1 / H_ii: rounding may take more off where one weight is all there is
            found.append(torch.maximum((1 - whitened.square().sum(1).double()) / self.ridge, least))
        return torch.cat(found)

    def saliency(self, weight: Tensor) -> Tensor:
        """float32[rows, cols]: w² / 2[H⁻¹]_ii, what a weight costs when it goes alone and the others of its row make up for it."""
        return (weight.detach().double().square() / (2 * self.inverse_diagonal())).float()

    def best_on(self, weight: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """The w that is zero where `keep` is not and costs least, ½(w - w̄)ᵀH(w - w̄), as float64[rows, cols], w̄ being `weight`;
        and that cost of each row.

        Of what is kept: w = w̄ + Aᵀ(λI + AAᵀ)⁻¹ v, with A of the kept weights alone and v = (A of those that go) w̄.
        """
        moves, costs = [], []
        for part, a in self._rows:
            gone = torch.where(keep[part], 0.0, weight[part].to(a))[:, :, None]
            kept = a * keep[part][:, None]
            pull = (a @ gone).double()
            move = kept.mT @ torch.linalg.solve(self._dampened(kept), pull).to(a) - gone
            moves.append(move[:, :, 0].double())
            costs.append((self.ridge * moves[-1].square().sum(1) + (a @ move).double().square().sum((1, 2))) / 2)
        return torch.where(keep, weight.double() + torch.cat(moves), 0.0), torch.cat(costs)

    def slope(self, move: Tensor) -> Tensor:
        """H·move, float64[rows, cols]."""
        return torch.cat([self.ridge * move[part] + (a.mT @ (a @ move[part].to(a)[:, :, None]))[:, :, 0] for part, a in self._rows])

    def _dampened(self, a: Tensor) -> Tensor:
        """λI + AAᵀ of several rows, float64[rows, m, m]."""
        products = (a @ a.mT).double()
        products.diagonal(dim1=1, dim2=2).add_(self.ridge)
        return products
