"""Sums over the inputs of a layer, of which its statistics are made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sparsecc.criteria.base import Stats

_ROWS = 4096  # inputs that are multiplied together at once, at most


class Sums:
    """Of the rows of x, in float64, for the statistics that are needed. tokens: how many rows."""

    def __init__(self, needs: Sequence[str]) -> None:
        self._needs = needs
        self.tokens = 0
        self._kept: list[Tensor] = []
        self._held: dict[str, Tensor] = {}  # squares: Σ x².  products: XᵀX.  mean.  moved: Σ (x - mean)²

    @classmethod
    def of(cls, columns: Iterable[Tensor], needs: Sequence[str]) -> Sums:
        """columns: float[tokens, cols], in pieces."""
        found = cls(needs)
        for rows in _together(columns):
            found._add(rows)
        return found

    def _add(self, rows: Tensor) -> None:
        x, needs = rows.double(), self._needs
        part = dict[str, Tensor]()
        if "norms" in needs:
            part["squares"] = x.square().sum(0)
        if "hessian" in needs and self.tokens:
            self._held["products"].addmm_(x.T, x)  # the largest of all, of which one more is not held
        elif "hessian" in needs:
            part["products"] = x.T @ x
        if "means" in needs or "variances" in needs:
            part["mean"] = x.mean(0)
            part["moved"] = (x - part["mean"]).square().sum(0)
        self._join(len(rows), part, [rows] if "inputs" in needs else [])

    def merge(self, part: Mapping[str, Tensor]) -> None:
        """Add what `tensors` of others gives. The last bits are those of this order."""
        part = dict(part)
        tokens, inputs = int(part.pop("tokens")), part.pop("inputs", None)
        if tokens:
            self._join(tokens, part, [] if inputs is None else [inputs])

    def _join(self, tokens: int, part: dict[str, Tensor], inputs: Sequence[Tensor]) -> None:
        before, self.tokens = self.tokens, self.tokens + tokens
        self._kept += inputs
        if not before:
            self._held = part
            return
        held = self._held
        for name in ("squares", "products"):
            if name in part:
                held[name] += part[name]
        if "mean" in part:  # piece by piece (Chan, Golub and LeVeque 1983)
            apart = part["mean"] - held["mean"]
            held["moved"] += part["moved"] + apart.square() * (before * tokens / self.tokens)
            held["mean"] += apart * (tokens / self.tokens)

    def tensors(self) -> dict[str, Tensor]:
        """Everything, as it can be sent."""
        inputs = {"inputs": torch.cat(self._kept)} if self._kept else {}
        return {"tokens": torch.tensor(self.tokens), **self._held, **inputs}

    def stats(self) -> Stats:
        """By name, those that are needed; {} of no tokens."""
        if not self.tokens:
            return {}
        held, tokens = self._held, self.tokens
        found = {
            "inputs": lambda: torch.cat(self._kept),
            "norms": lambda: held["squares"].sqrt(),
            "hessian": lambda: held["products"] / tokens,
            "means": lambda: held["mean"],
            "variances": lambda: held["moved"] / tokens,
            "tokens": lambda: torch.tensor(tokens),
        }
        return {need: made() for need, made in found.items() if need in self._needs}


def _together(columns: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same rows in pieces of about _ROWS: large enough for a matrix product to be fast, small enough for a copy."""
    waiting: list[Tensor] = []
    for x in (piece for whole in columns for piece in whole.split(_ROWS) if len(piece)):
        if waiting and sum(map(len, waiting)) + len(x) > _ROWS:
            yield torch.cat(waiting)
            waiting = []
        waiting.append(x)
    if waiting:
        yield torch.cat(waiting)
