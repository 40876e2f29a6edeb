"""Cost models that go with the measurements: kept in their file, and trained anew where they were not made of just these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sparsecc.codegen.target import Target
from sparsecc.codegen.tuning.cost_model import CostModel, Samples, Tasks, require_xgboost
from sparsecc.codegen.tuning.records import Records
from sparsecc.codegen.tuning.store import Model, Store
from sparsecc.codegen.tuning.text import text
from sparsecc.errors import UserError


class Carried:
    """The cost models of one file for one target, by kernel."""

    def __init__(self, records: Records, target: Target) -> None:
        self._records, self._target = records, target
        self.hints = records.hints()
        self._kept = records.models()

    def model(self, kernel: str, tasks: Tasks) -> CostModel:
        """Of all measurements. tasks: those of the target.

        The one in the file where that is what it was made of. One that is damaged is trained anew: all that it knew is there."""
        samples = self._samples(kernel, tasks)
        kept = self._fitting(kernel, samples)
        return CostModel.of(self._target, samples) if kept is None else CostModel.load(self._target, kept.raw)

    def keep(self, kernels: Iterable[str], tasks: Tasks) -> None:
        """Store a model of each kernel of which there is enough to learn from, where the file has not just that one."""
        if made := list(self.made(kernels, tasks)):
            self._records.keep(made)

    def made(self, kernels: Iterable[str], tasks: Tasks) -> Iterator[Model]:
        for kernel in dict.fromkeys(kernels):
            samples = self._samples(kernel, tasks)
            if samples.enough and self._fitting(kernel, samples) is None:
                raw = CostModel.of(self._target, samples).save()
                yield Model.of(text(self._target), kernel, samples.facts, samples.hints, samples.digest, raw)

    def _samples(self, kernel: str, tasks: Tasks) -> Samples:
        return Samples.of(self._target, tasks, kernel, self.hints)

    def _fitting(self, kernel: str, samples: Samples) -> Model | None:
        kept = self._kept.get(kernel)
        return kept if kept is not None and kept.whole and kept.samples == samples.digest else None


def learned(store: Store, targets: Sequence[Target]) -> list[Model]:
    """Models of all that a file has for these targets; none where xgboost is not installed, and the next `tune` trains them."""
    try:
        require_xgboost()
    except UserError:
        return []
    found: list[Model] = []
    for target in targets:
        records = Records(store, target, "write")
        tasks = records.all()
        found += Carried(records, target).made(sorted(task.kernel for task in tasks), tasks)
    return found
