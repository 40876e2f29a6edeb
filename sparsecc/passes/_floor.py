"""A floor under the quality of a model's own outputs, held against inputs that nothing was chosen on."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from sparsecc.calibration.context import Context
from sparsecc.errors import RecipeError, Refused
from sparsecc.quality import WINDOW, psnr, ssim

if TYPE_CHECKING:
    from torch import Tensor


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


def split(floor: Floor, inputs: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Inputs to choose on, and every second one, which is held out. Raises RecipeError where that cannot be."""
    if len(inputs) < 2:
        raise RecipeError(f"{floor.fields}: every second calibration input is held out, so that at least two are needed, not 1")
    if len({_sizes(one) for one in inputs}) > 1:  # a map is for one number of tokens
        raise RecipeError(f"{floor.fields}: needs calibration inputs of one size")
    return inputs[::2], inputs[1::2]


def _sizes(inputs: Sequence[Any] | Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(x.shape) for x in (inputs.values() if isinstance(inputs, Mapping) else inputs))


class HeldOut:
    """What the dense model gives for held-out inputs, each the floating outputs of one. Raises RecipeError where they cannot be compared
    with anything."""

    def __init__(self, dense: Sequence[Sequence[Tensor]], floor: Floor) -> None:
        self.count, self.floor, self._dense = len(dense), floor, dense
        if not dense[0]:
            raise RecipeError(f"{floor.fields}: the model has no output of floating numbers")
        for number, outputs in enumerate(dense):
            for y in outputs:
                self._require_comparable(y, number)
        self._peaks = [_range([sample[i] for sample in dense]) for i in range(len(dense[0]))]
        if not all(self._peaks):
            raise RecipeError(f"{floor.fields}: an output of the dense model has one value everywhere, so that errors have no scale")

    def quality(self, outputs: Sequence[Sequence[Tensor]]) -> Quality:
        """Of what a changed model gives, by what the floor asks for. The peak is the range of the dense output's values over all inputs."""
        pairs = [each for dense, ys in zip(self._dense, outputs, strict=True) for each in zip(dense, ys, self._peaks, strict=True)]
        return Quality(
            None if self.floor.psnr is None else _least([psnr(dense, y, peak) for dense, y, peak in pairs]),
            None if self.floor.ssim is None else _least([ssim(dense, y, peak) for dense, y, peak in pairs]),
        )

    def _require_comparable(self, y: Tensor, number: int) -> None:
        if not y.isfinite().all():
            raise RecipeError(f"{self.floor.fields}: the dense model gives NaN or infinity for held-out input {number}")
        if self.floor.ssim is not None and (y.dim() < 4 or min(y.shape[-2:]) < WINDOW):
            raise RecipeError(
                f"min_ssim: an output of shape {'×'.join(map(str, y.shape))} is no image: it takes four axes or more, the last two height "
                f"and width of at least {WINDOW}; ask for min_psnr"
            )


C = TypeVar("C")


@dataclass(frozen=True)
class Reached(Generic[C]):
    """said: what was reached, in words."""

    choices: C
    said: str


def least_above(
    held_out: HeldOut, densities: Sequence[float], attempt: Callable[[float], tuple[C, Sequence[Sequence[Tensor]]]], context: Context
) -> Reached[C] | Refused:
    """What is chosen at the lowest density at which the whole model reaches the floor on each held-out input, by bisection: more blocks are
    taken to come nearer to the dense model. What is returned was run; refused where no density does.

    attempt: what is chosen at a density, and what the model then gives.
    """
    tried: dict[int, tuple[C, Quality]] = {}

    def reaches(place: int) -> bool:
        choices, outputs = attempt(densities[place])
        quality = held_out.quality(outputs)
        tried[place] = choices, quality
        context.tell("checking held-out inputs", len(tried), len(densities).bit_length(), f"density {densities[place]:.2f}: {quality}")
        return held_out.floor.met_by(quality)

    place = bisect.bisect_left(range(len(densities)), True, key=reaches)
    asked, count = f"{held_out.floor} asked for", held_out.count
    if place == len(densities):
        return Refused(f"at density {densities[-1]:.2g} the model has {tried[place - 1][1]} on held-out inputs, below the {asked}")
    choices, quality = tried[place]
    return Reached(choices, f"{quality} on {count} held-out input{'s' * (count > 1)} ({asked})")


def _range(outputs: Sequence[Tensor]) -> float:
    return max(float(y.max()) for y in outputs) - min(float(y.min()) for y in outputs)


def _least(values: Sequence[float]) -> float:
    """NaN where one is."""
    return math.nan if any(map(math.isnan, values)) else min(values)
