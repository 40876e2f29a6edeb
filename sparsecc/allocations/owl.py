"""Layers with many outliers among their scores stay denser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparsecc.allocations.base import Allocation, Layer, divided


@dataclass(frozen=True)
class Owl(Allocation):
    """Kept share of a layer = that of the whole ± `spread`, by the share of its units whose score is above `outlier` times their mean
    (Yin et al., Outlier Weighed Layerwise Sparsity, 2024). With the criterion wanda these are the outliers of the paper."""

    settles = False  # zeros lower the mean, so that more scores are above it

    outlier: float = 5.0
    spread: float = 0.08

    def allocate(self, layers: Sequence[Layer], sparsity: float, floor: float) -> list[float]:
        outliers = {layer.name: self._outliers(layer) for layer in layers}
        low, high = min(outliers.values()), max(outliers.values())
        above = {name: 2 * (ratio - low) / (high - low) - 1 if high > low else 0.0 for name, ratio in outliers.items()}

        def share(layer: Layer, middle: float) -> float:
            return min(1.0, max(floor, middle + self.spread * above[layer.name]))

        return divided(layers, sparsity, share, -self.spread, 1 + self.spread)

    def _outliers(self, layer: Layer) -> float:
        scores = layer.unit_scores().double()
        return float((scores > self.outlier * scores.mean()).double().mean())
