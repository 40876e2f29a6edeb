"""A floor under the quality of a model's own outputs, held against inputs that nothing was chosen on."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sparsecc.calibration.context import Context
from sparsecc.calibration.outputs import Outputs
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import Graph
from sparsecc.passes._shares import Division, with_maps
from sparsecc.quality import WINDOW, psnr, ssim

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.attention.base import Choice
    from sparsecc.attention.rounding import Precision


class Quality(NamedTuple):
    """The least over inputs and outputs. psnr: in dB; None for what no floor asks for."""

    psnr: float | None
    ssim: float | None

    def __str__(self) -> str:
        shown = (None if self.psnr is None else f"PSNR {self.psnr:.1f} dB", None if self.ssim is None else f"SSIM {self.ssim:.4f}")
        return " and ".join(filter(None, shown))


@dataclass(frozen=True)
class Floor:
    """psnr: in dB.  ssim: in (0, 1). None asks for nothing."""

    psnr: float | None = None
    ssim: float | None = None

    def __post_init__(self) -> None:
        if self.psnr is not None and not 0 < self.psnr < math.inf:
            raise RecipeError(f"min_psnr: {self.psnr:g} is no number of decibels above zero")
        if self.ssim is not None and not 0 < self.ssim < 1:
            raise RecipeError(f"min_ssim: {self.ssim:g} is not in (0, 1); equal images have 1")

    @property
    def fields(self) -> str:
        """Which fields of a recipe ask for it."""
        return " and ".join(["min_psnr"] * (self.psnr is not None) + ["min_ssim"] * (self.ssim is not None))

    def __str__(self) -> str:
        return str(Quality(self.psnr, self.ssim))

    def __bool__(self) -> bool:
        return self.psnr is not None or self.ssim is not None

    def met_by(self, found: Quality) -> bool:
        """Whether it is reached; what is no number does not reach it."""
        pairs = ((self.psnr, found.psnr), (self.ssim, found.ssim))
        return all(floor is None or (value is not None and value >= floor) for floor, value in pairs)


class HeldOut:
    """What the dense model gives on held-out inputs. Raises RecipeError where it cannot be compared with anything."""

    def __init__(self, graph: Graph, samples: Sequence[Any], floor: Floor) -> None:
        self.count, self._floor, self._outputs = len(samples), floor, Outputs(graph, samples)
        dense = self._outputs.dense
        if not dense[0]:
            raise RecipeError(f"{floor.fields}: the model has no output of floating numbers")
        for number, outputs in enumerate(dense):
            for y in outputs:
                self._require_comparable(y, number)
        self._peaks = [_range([sample[i] for sample in dense]) for i in range(len(dense[0]))]
        if not all(self._peaks):
            raise RecipeError(f"{floor.fields}: an output of the dense model has one value everywhere, so that errors have no scale")

    def quality(self, graph: Graph) -> Quality:
        """Of another graph, by what the floor asks for. The peak is the range of the dense output's values over all held-out inputs."""
        pairs = list(self._pairs(graph))
        return Quality(
            None if self._floor.psnr is None else _least([psnr(dense, y, peak) for dense, y, peak in pairs]),
            None if self._floor.ssim is None else _least([ssim(dense, y, peak) for dense, y, peak in pairs]),
        )

    def _pairs(self, graph: Graph) -> Iterator[tuple[Tensor, Tensor, float]]:
        for dense, outputs in zip(self._outputs.dense, self._outputs.of(graph), strict=True):
            yield from zip(dense, outputs, self._peaks, strict=True)

    def _require_comparable(self, y: Tensor, number: int) -> None:
        if not y.isfinite().all():
            raise RecipeError(f"{self._floor.fields}: the dense model gives NaN or infinity for held-out input {number}")
        if self._floor.ssim is not None and (y.dim() < 4 or min(y.shape[-2:]) < WINDOW):
            raise RecipeError(
                f"min_ssim: an output of shape {'×'.join(map(str, y.shape))} is no image: it takes four axes or more, the last two height "
                f"and width of at least {WINDOW}; ask for min_psnr"
            )


@dataclass(frozen=True)
class Reached:
    """choices: by site.  said: what was reached, in words."""

    choices: Mapping[str, Choice]
    said: str


def least_above(
    floor: Floor, graph: Graph, division: Division, inputs: Sequence[Any], max_error: float | None, precision: Precision, context: Context
) -> Reached | Refused:
    """The maps of the lowest density at which the whole model reaches the floor on each held-out input, by bisection: more blocks are taken
    to come nearer to the dense model. What is returned was run; refused where no density does.

    max_error: heads whose error on the other inputs is above are dense in all of it.  precision: with which it is run.
    """
    from sparsecc.attention.judge import held  # which imports torch, as ladder does
    from sparsecc.attention.ladder import DENSITIES

    held_out = HeldOut(graph, inputs, floor)
    densities = sorted({max(density, division.least) for density in DENSITIES})
    tried: dict[int, tuple[Mapping[str, Choice], Quality]] = {}

    def reaches(place: int) -> bool:
        steps = division.steps(densities[place])
        choices = {name: held(ladder.choice(steps[name]), max_error) for name, ladder in division.ladders.items()}
        quality = held_out.quality(with_maps(graph, {name: choice.map for name, choice in choices.items()}, precision))
        tried[place] = choices, quality
        context.tell("checking held-out inputs", len(tried), len(densities).bit_length(), f"density {densities[place]:.2f}: {quality}")
        return floor.met_by(quality)

    place = bisect.bisect_left(range(len(densities)), True, key=reaches)
    if place == len(densities):
        reached = tried[place - 1][1]
        return Refused(f"at density {densities[-1]:.2g} the model has {reached} on held-out inputs, below the {floor} asked for")
    choices, quality = tried[place]
    return Reached(choices, f"{quality} on {held_out.count} held-out input{'s' * (held_out.count > 1)} ({floor} asked for)")


def _range(outputs: Sequence[Tensor]) -> float:
    return max(float(y.max()) for y in outputs) - min(float(y.min()) for y in outputs)


def _least(values: Sequence[float]) -> float:
    """NaN where one is."""
    return math.nan if any(map(math.isnan, values)) else min(values)
