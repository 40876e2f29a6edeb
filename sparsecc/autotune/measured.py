"""One rung, measured in the whole model: what each layer takes, what it shares with others, and the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsecc.report.base import Report
    from sparsecc.report.profile import Profile


@dataclass(frozen=True)
class Input:
    """Preparing an input (rounding it, copying it into planes) for some layers at once. kernel: that does it, of these numbers."""

    kernel: str
    readers: tuple[str, ...]
    us: float


@dataclass(frozen=True)
class Measured:
    """The model with one rung on all layers that it fits, and the others dense. Times in µs, all on the scale of one dense model: measured
    in turns with it, so that a machine that has become slower since makes no rung slower.

    fits: layers on the rung, in the order of the model.  whole_us: of a call.  site_us: of the kernels of each layer, of all layers.
    inputs: that are prepared.  bytes: stored for each layer.  other_bytes: of weights that belong to none.
    """

    fits: tuple[str, ...]
    whole_us: float = 0.0
    site_us: Mapping[str, float] = field(default_factory=dict[str, float])
    inputs: tuple[Input, ...] = ()
    bytes: Mapping[str, int] = field(default_factory=dict[str, int])
    other_bytes: int = 0

    @classmethod
    def of(cls, fits: Iterable[str], profile: Profile, whole_us: float, report: Report, sites: Iterable[str]) -> Measured:
        """whole_us: on the common scale, to which the profile's times are brought.

        By its 10th percentile, not its median: on a busy machine most calls are delayed somewhere, but few of any one kernel's. By the
        median, two thirds of the time of a model that was disturbed would belong to no layer.
        """
        scale, names = whole_us / profile.whole_us.p10, list(sites)
        stored = {row.name: row.bytes_kept for row in report.sites}
        by_site = profile.by_site()
        return cls(
            fits=tuple(fits),
            whole_us=whole_us,
            site_us={name: scale * by_site.get(name, 0.0) for name in names},
            inputs=tuple(Input(row.kernel or row.symbol, row.readers, scale * row.us) for row in profile.rows if row.readers),
            bytes={name: stored.pop(name, 0) for name in names},
            other_bytes=sum(stored.values()),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measured:
        """Inverse of `to_dict`, also after JSON. Raises LookupError, TypeError or ValueError for anything else."""
        inputs = tuple(Input(one["kernel"], tuple(one["readers"]), one["us"]) for one in data["inputs"])
        return cls(**{**data, "fits": tuple(data["fits"]), "inputs": inputs})
