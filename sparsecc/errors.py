"""Everything sparsecc says no with: raised errors for the caller, `Refused` for a site that stays as it is."""

from __future__ import annotations

from dataclasses import dataclass


class SparseccError(Exception):
    """Base of every error that sparsecc raises on purpose; the CLI prints it as one line and exits with `exit_code`."""

    exit_code = 1


class UserError(SparseccError):
    """The caller's mistake: a wrong file, name, shape, recipe. The message says what, where and what to do."""

    exit_code = 2


class ModelError(UserError):
    """The model cannot be read, or holds something that cannot be taken: a corrupt file, an unknown operator."""


class RecipeError(UserError):
    """The recipe names something that does not exist or asks for something impossible."""


class InputError(UserError):
    """An input or calibration tensor has the wrong name, shape, dtype or values."""


class MetricError(UserError):
    """A metric function of the caller's raised, or returned what is no number."""


class ArtifactError(UserError):
    """A saved artifact is corrupt, from another version, or for another CPU."""


class RecipeWarning(UserWarning):
    """A pass of the recipe changed nothing, which is seldom what was meant. `strict: true` in the recipe makes it a RecipeError."""


@dataclass(frozen=True)
class Refused:
    """A no with its reason. A value, not an exception: formats, passes, kernels and schedules return it.

    `reason` reads after the site's name, as in "layer 'fc1': in_features 30 is no multiple of 4".
    """

    reason: str
    site: str | None = None

    def at(self, site: str) -> Refused:
        return Refused(self.reason, site)

    def __str__(self) -> str:
        return f"layer '{self.site}': {self.reason}" if self.site else self.reason
