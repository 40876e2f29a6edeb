"""A compiled model: called like the model it came from."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsecc.codegen.target import Target
from sparsecc.errors import InputError, UserError
from sparsecc.files import scratch_folder
from sparsecc.graph.base import TensorSpec
from sparsecc.graph.binding import Shapes, bind, describe, is_torch, reject_images, reject_nan, reject_outside, reject_zero, shapes_of
from sparsecc.runtime import artifact
from sparsecc.runtime.code import Specialization, adopt
from sparsecc.runtime.outputs import rebuild
from sparsecc.runtime.tensors import Staging, address, to_host, to_tvm
from sparsecc.runtime.thread_count import ThreadCount
from sparsecc.runtime.weights import WeightStore, content_key

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from sparsecc.codegen.library import Library
    from sparsecc.report.base import Report
    from sparsecc.report.profile import Profile

MAX_SPECIALIZATIONS = 8  # kept at a time; the least recently used makes room


@dataclass(frozen=True)
class _Ready:
    """A specialization with its weights at hand. addresses: of the weights, to recognize an output that is one of them."""

    specialization: Specialization
    shapes: Shapes
    weights: tuple[Any, ...]
    addresses: frozenset[int]
    threads: ThreadCount


class Compiled:
    """Generated code for one model on one target.

    Call it with numpy arrays or torch tensors, by position or by name; any torch tensor among the inputs makes the outputs torch
    tensors. A torch model's output structure is kept; an ONNX model gives its single output, or a tuple of them.
    Input shapes may change from call to call within `inputs`: each new combination is compiled once and kept (a loaded artifact
    holds the combinations it was saved with). Safe to call from several threads.

    inputs, outputs: names, types and shapes of what it takes and gives, in the model's order.
    target: what the code is for, and on how many threads.
    report: what was done to the model, and what was measured.
    """

    def __init__(
        self,
        *,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        target: Target,
        report: Report,
        structure: Any = None,
        weights: WeightStore | None = None,
        specialize: Callable[[Sequence[Any]], Library] | None = None,
        to_onnx: Callable[[], onnx.ModelProto] | None = None,
    ) -> None:
        """structure: see `runtime.outputs`.  specialize: compiles for the shapes of the inputs it is given.
        to_onnx: the converted model, for models that came from ONNX."""
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.target = target
        self.report = report
        self.structure = structure
        self.weights = weights or WeightStore()
        self._elsewhere = target.cannot_run
        self._specialize = specialize
        self._to_onnx = to_onnx
        self._cache: OrderedDict[Shapes, _Ready] = OrderedDict()
        self._latest: _Ready | None = None  # the last of the cache, seen without its lock
        self._staging = Staging()
        self.renew_locks()
        _alive.add(self)

    def renew_locks(self) -> None:
        """For a forked child, in which what another thread held at that moment would stay held."""
        self._lock = threading.RLock()
        self._compiling = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises InputError for a wrong name, type, dtype or shape, for NaN, for an index beyond its table, and for a zero that
        integers are divided by, naming the input;
        UserError when the target is not for this machine."""
        return rebuild(self.structure, self.flat(bind(self.inputs, args, kwargs)))

    def flat(self, values: Sequence[Any]) -> list[Any]:
        """The outputs in a row, for inputs in the model's order that `bind` has passed. Raises as a call does."""
        if self._elsewhere:
            raise UserError(f"{self._elsewhere}; save it, and load it on such a machine")
        ready = self._ready(values)
        placed = [self._staging.place(position, value) for position, value in enumerate(values)]
        self._reject([place.array for place in placed], ready.specialization)  # copies are in the cache now
        arguments = [place.tensor for place in placed]
        results = ready.threads.run(lambda: ready.specialization.call(arguments, ready.weights))
        taken = {*ready.addresses, *(place.address for place in placed)}
        as_torch = any(is_torch(value) for value in values)
        return [to_host(result, as_torch, taken) for result in results]

    def profile(self, *args: Any, seconds: float = 2.0, rounds: int = 50, **kwargs: Any) -> Profile:
        """How long each kernel takes where it stands in the model, with weights as cold and threads as busy as they are there.

        args, kwargs: as for a call.  seconds: to measure for, or so many rounds, whichever comes first; at least three. In each round the
        model runs as it is and watched, so that the profile says how far watching has slowed it down. Raises as a call does.
        """
        return self.profile_of(bind(self.inputs, args, kwargs), seconds, rounds)

    def profile_of(self, values: Sequence[Any], seconds: float = 2.0, rounds: int = 50) -> Profile:
        """`profile`, for inputs in the model's order that `bind` has passed."""
        from sparsecc.runtime.profile import profiled

        self.flat(values)  # which checks them, and compiles for them
        ready = self._ready(values)
        tensors = [to_tvm(value) for value in values]

        def call(main: Callable[..., Any]) -> None:
            ready.threads.run(lambda: main(*tensors, *ready.weights))

        return profiled(ready.specialization, lambda: self.flat(values), call, lambda: ready.threads.chosen, seconds, rounds)

    def _reject(self, values: Sequence[Any], specialization: Specialization) -> None:
        reject_nan(self.inputs, values)
        if specialization.limits:
            reject_outside(self.inputs, values, specialization.limits)
        if specialization.divisors:
            reject_zero(self.inputs, values, specialization.divisors)
        if specialization.regions:
            reject_images(self.inputs, values, specialization.regions)

    @property
    def specializations(self) -> list[Specialization]:
        """What is compiled now, least recently used first."""
        return self.held()[0]

    def held(self) -> tuple[list[Specialization], dict[str, np.ndarray]]:
        """`specializations` and the weights of just these, by key; later calls change neither."""
        with self._lock:
            specializations = [ready.specialization for ready in self._cache.values()]
            return specializations, {key: self.weights.arrays[key] for entry in specializations for key in entry.weights}

    def add(self, specialization: Specialization) -> _Ready:
        """Hold a specialization whose weights are in `weights`; the least recently used one may make room for it."""
        with self._lock:
            weights = tuple(self.weights.tensor(key) for key in specialization.weights)
            addresses = frozenset(address(weight) for weight in weights)
            ready = _Ready(specialization, specialization.shapes, weights, addresses, ThreadCount(self.target.threads))
            self._cache[ready.shapes] = self._latest = ready
            if len(self._cache) > MAX_SPECIALIZATIONS:
                self._cache.popitem(last=False)
                self.weights.keep_only(key for other in self._cache.values() for key in other.specialization.weights)
        return ready

    def add_library(self, library: Library) -> _Ready:
        """Hold codegen's product; weights that an earlier one brought already are not stored again."""
        keys = [content_key(array) for array in library.weights.values()]
        with self._lock:
            for key, array in zip(keys, library.weights.values(), strict=True):
                self.weights.adopt(key, array)
            return self.add(adopt(library, keys))

    def _ready(self, values: Sequence[Any]) -> _Ready:
        shapes, latest = shapes_of(values), self._latest
        if latest is not None and latest.shapes == shapes:
            return latest
        ready = self._cached(shapes)
        if ready is not None:
            return ready
        reject_nan(self.inputs, values)  # before anything is made of them
        with self._compiling:  # two callers with one new shape compile it once; callers with known shapes go on
            return self._cached(shapes) or self._compile(values, shapes)

    def _cached(self, shapes: Shapes) -> _Ready | None:
        with self._lock:
            if shapes in self._cache:
                self._cache.move_to_end(shapes)
                self._latest = self._cache[shapes]
            return self._cache.get(shapes)

    def _compile(self, values: Sequence[Any], shapes: Shapes) -> _Ready:
        if self._specialize is None:
            held = "; ".join(describe(self.inputs, other) for other in self._cache)
            wanted = describe(self.inputs, shapes)
            raise InputError(
                f"not compiled for {wanted}; this artifact holds: {held}. Call the compiled model with these shapes, then save it"
            )
        return self.add_library(self._specialize(values))

    def save(self, path: str | PathLike[str]) -> None:
        """Write one file that `sparsecc.load` reads, with every specialization compiled so far; atomically."""
        specializations, weights = self.held()  # at once: while it is linked, other threads may compile more and push these out
        artifact.save(
            artifact.Contents(self.inputs, self.outputs, self.target, self.report, self.structure, specializations, weights), path
        )

    def __reduce__(self) -> Any:
        """For pickle and copy: what `save` writes, so that the copy holds what is compiled, and compiles nothing else."""
        with scratch_folder() as folder:
            path = Path(folder) / "model.sparsecc"
            self.save(path)
            return _from_bytes, (path.read_bytes(),)

    def to_onnx(self) -> onnx.ModelProto:
        """The converted model in standard operators. Raises UserError for a model that did not come from ONNX."""
        if self._to_onnx is None:
            raise UserError(
                "to_onnx() needs a model that came from ONNX; export the dense model with torch.onnx.export and give it to sparsecc.convert"
            )
        return self._to_onnx()


def load(path: str | PathLike[str], threads: int | None = None) -> Compiled:
    """What `Compiled.save` wrote. Raises as `artifact.load` does."""
    contents = artifact.load(path, threads)
    compiled = Compiled(
        inputs=contents.inputs,
        outputs=contents.outputs,
        target=contents.target,
        report=contents.report,
        structure=contents.structure,
        weights=WeightStore(contents.weights),
    )
    for specialization in contents.specializations:
        compiled.add(specialization)
    return compiled


def _from_bytes(data: bytes) -> Compiled:
    """What the file that held these bytes holds."""
    with scratch_folder() as folder:
        path = Path(folder) / "model.sparsecc"
        path.write_bytes(data)
        return load(path)


def _renew_all_locks() -> None:
    for compiled in list(_alive):
        compiled.renew_locks()


_alive: weakref.WeakSet[Compiled] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all_locks)
