"""Calibration inputs, in all forms that callers have them in."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from sparsecc.calibration.npz import read_npz
from sparsecc.calibration.references import apart, cut, items_of
from sparsecc.errors import InputError
from sparsecc.graph.base import Graph, TensorSpec
from sparsecc.graph.binding import dtype_name, reject_infinity
from sparsecc.graph.given import as_tuple, in_order, is_array, tensors_in

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from sparsecc.graph.inputs import Sample

Source = Iterable[Any] | str | PathLike[str]


@dataclass(frozen=True)
class Labelled:
    """A sample with its right answers. references: by name, their first axis counts the items of the sample."""

    sample: Sample
    references: Mapping[str, np.ndarray]


def samples_of(source: Source | None, specs: Sequence[TensorSpec]) -> list[Sample] | None:
    """The samples, each bound to the model's inputs and looked at here, once for all passes. None stays None.

    source: the path of an .npz or a mapping of what it would hold, one array per input, samples along its first axis (an extra axis, or
    the batch axis, which is then cut into the batches that the model takes, single items if it takes any);
    a torch DataLoader, each of whose batches is a sample: the model's inputs come first or by name, what else is there are labels;
    or another iterable, of tensors, tuples or dicts by name. What is made while it is read is copied: a loader may refill its buffers.
    Arrays called `reference:NAME` are left out, see `labelled_of`.
    Raises InputError when there are none, or one does not fit the model, or holds NaN or infinity. Warns of samples that are one and the
    same.
    """
    return None if source is None else [labelled.sample for labelled in labelled_of(source, specs)]


def labelled_of(source: Source, specs: Sequence[TensorSpec], what: str = "calibration") -> list[Labelled]:
    """Samples as `samples_of` gives them, with their references: in an .npz or such a mapping arrays `reference:NAME` with an entry for
    each item (all entries of all batches, in order), in an iterable of dicts arrays of that name, with as many entries as the sample has.
    what: they are called in errors, where they are no file.
    Raises as `samples_of` does, and InputError for references that do not fit their samples."""
    label = str(source) if isinstance(source, str | PathLike) else what
    there = isinstance(source, str | PathLike | Mapping | list | tuple) or is_array(source)  # all of it, before the first is asked for
    labelled = _is_loader(source)
    given = read_npz(source) if isinstance(source, str | PathLike) else source
    given, of_all = apart(given, label) if isinstance(given, Mapping) else (given, {})
    samples: list[Sample] = []
    references: list[dict[str, np.ndarray]] = []
    for number, sample in enumerate(_read(given, specs, label)):
        where = f"{label}, sample {number}"
        inputs, own = apart(sample, where) if isinstance(sample, Mapping) and not labelled else (sample, {})
        bound = _bound(specs, inputs, labelled, where)
        samples.append(bound if there else bound.copied())
        references += cut(own if there else {name: array.copy() for name, array in own.items()}, [_items(bound)], where)
    if not samples:
        raise InputError(f"{label}: no samples in it")
    if isinstance(source, list | tuple):
        _warn_of_repeated(samples, label)
    pieces = cut(of_all, [_items(sample) for sample in samples], label)
    return [Labelled(sample, {**own, **piece}) for sample, own, piece in zip(samples, references, pieces, strict=True)]


def _items(sample: Sample) -> int:
    return items_of(sample[0].shape) if sample else 1


def _is_loader(source: Source) -> bool:
    return any(f"{kind.__module__}.{kind.__name__}" == "torch.utils.data.dataloader.DataLoader" for kind in type(source).__mro__)


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies; apart for each that is empty."""
    return (tensor.data_ptr(), tuple(tensor.shape)) if tensor.numel() else (id(tensor),)


def _warn_of_repeated(samples: Sequence[Sample], label: str) -> None:
    """What a list of the batches of a loader looks like that gives one tensor again and again, with other contents: all are the last."""
    first: dict[Any, int] = {}
    for number, sample in enumerate(samples):
        earlier = first.setdefault(tuple(map(_memory, sample)), number)
        if earlier != number:
            warnings.warn(
                f"{label}: samples {earlier} and {number} are one and the same tensor, so that both hold what was written last; "
                "if a loader refills it, list copies: [x.clone() for x in loader]",
                stacklevel=5,
            )
            return


def _read(source: Iterable[Any], specs: Sequence[TensorSpec], label: str) -> Iterable[Any]:
    if isinstance(source, Mapping):
        return _cut(source, specs, label)
    if is_array(source):
        return (source,)
    if not isinstance(source, Iterable):
        raise InputError(f"{label} is a {type(source).__name__}; pass an iterable of samples, a DataLoader or the path of an .npz")
    return source


def _bound(specs: Sequence[TensorSpec], sample: Any, labelled: bool, where: str) -> Sample:
    """labelled: what the model does not take may be there, too."""
    from sparsecc.graph.inputs import checked  # which imports torch

    try:
        bound = checked(specs, in_order(specs, _without_labels(specs, sample) if labelled else sample))
        reject_infinity(specs, bound)
    except InputError as error:
        raise InputError(f"{where}: {error}{_advice(specs, sample)}") from None
    return bound


def _advice(specs: Sequence[TensorSpec], sample: Any) -> str:
    if not isinstance(sample, tuple | list) or len(sample) <= len(specs):
        return ""
    return "; if labels are among them, leave them out, as in [inputs for inputs, _ in batches]"


def _without_labels(specs: Sequence[TensorSpec], batch: Any) -> Any:
    """A DataLoader's batch: {input: x, ..., labels: y}, ({input: x, ...}, y) or (x, ..., y)."""
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Mapping):
        batch = batch[0]
    if isinstance(batch, Mapping):
        known = {spec.name: batch[spec.name] for spec in specs if spec.name in batch}
        return known if len(known) == len(specs) else batch
    return batch if is_array(batch) else tensors_in(as_tuple(batch))[: len(specs)]


def _cut(arrays: Mapping[str, Any], specs: Sequence[TensorSpec], label: str) -> Iterator[dict[str, Any]]:
    known = {spec.name: spec for spec in specs}
    columns: dict[str, range] = {}
    for name, array in arrays.items():
        if name not in known:
            raise InputError(f"{label}: the model has no input {name!r}; it has: {', '.join(known)}")
        if not is_array(array):
            raise InputError(f"{label}: {name!r} is a {type(array).__name__}; pass an array with all samples, or an iterable of samples")
        columns[name] = _starts(array, known[name], label)
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"{label}: the inputs have different numbers of samples: {', '.join(f'{k} {v}' for k, v in counts.items())}")
    if columns and not any(math.prod(array.shape) for array in arrays.values()) and any(counts.values()):
        raise InputError(f"{label}: no array holds a value")  # and may be said to hold a billion billion of them all the same
    names, rows = list(columns), zip(*columns.values(), strict=True)
    return ({name: _piece(arrays[name], known[name], start) for name, start in zip(names, row, strict=True)} for row in rows)


def _starts(array: Any, spec: TensorSpec, label: str) -> range:
    """Where the samples begin along the first axis; looked at before anything is cut, as an array may be said to have any length."""
    if dtype_name(array) != spec.dtype:
        raise InputError(f"{label}: input {spec.name!r} is {dtype_name(array)}, the model takes {spec.dtype}")
    return range(0, len(array), _length(array, spec) or 1) if array.ndim else range(1)


def _piece(array: Any, spec: TensorSpec, start: int) -> Any:
    """A last piece that is too short is left for the check against the model."""
    length = _length(array, spec)
    if not array.ndim:
        return array
    return array[start : start + length] if length else array[start, ...]


def _length(array: Any, spec: TensorSpec) -> int:
    """Of a sample along the first axis: the batch that the model takes; 0 where that axis is an extra one."""
    if array.ndim == len(spec.shape) + 1:
        return 0
    return max(1, spec.shape[0]) if spec.shape and isinstance(spec.shape[0], int) else 1


@contextmanager
def numbered(graph: Graph, samples: Sequence[Any] | None) -> Iterator[None]:
    """An InputError in here names the first sample that the model cannot take: sizes that do not fit, an index that no table has.

    All samples go through a model side by side; where that fails, they go one by one."""
    try:
        yield
    except InputError:
        for number, sample in enumerate(samples or ()):
            try:
                graph.run(sample)
            except InputError as error:
                raise InputError(f"calibration, sample {number}: {error}") from None
        raise
