"""Cost models that go with the measurements: kept in their file, and trained anew where they were not made of just these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
        self._hints = records.hints()
        self._kept = records.models()

    def model(self, kernel: str, tasks: Tasks) -> CostModel:
        """Of all measurements. tasks: those of the target.

        The one in the file where that is what it was made of; one that is damaged is trained anew, as all that it knew is there."""
        samples = Samples.of(self._target, tasks, kernel, self._hints)
        kept = self._kept.get(kernel)
        if samples.enough and kept is not None and kept.whole and kept.samples == samples.digest:
            return CostModel.load(self._target, kept.raw)
        return CostModel.of(self._target, samples)

    def keep(self, kernels: Iterable[str], tasks: Tasks) -> None:
        """Store a model of each kernel, of all measurements."""
        if made := self.made(kernels, tasks):
            self._records.keep(made)

    def made(self, kernels: Iterable[str], tasks: Tasks) -> list[Model]:
        """Those kernels' models of which there is enough to learn from."""
        every = [(kernel, Samples.of(self._target, tasks, kernel, self._hints)) for kernel in dict.fromkeys(kernels)]
        return [self._made(kernel, samples) for kernel, samples in every if samples.enough]

    def _made(self, kernel: str, samples: Samples) -> Model:
        raw = CostModel.of(self._target, samples).save()
        return Model.of(text(self._target), kernel, samples.facts, samples.hints, samples.digest, raw)


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
