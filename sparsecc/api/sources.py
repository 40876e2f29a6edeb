"""What callers hand in: models and inputs, in all their accepted forms."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sparsecc import memory
from sparsecc.errors import InputError, ModelError, UserError
from sparsecc.files import require_regular
from sparsecc.graph.base import Graph, TensorSpec
from sparsecc.graph.given import as_tuple, in_order, tensors_in

if TYPE_CHECKING:
    from sparsecc.graph.inputs import Sample

    Shapes = Mapping[str, Sequence[int]]

_PIECE = 1 << 20  # values that are drawn at once, in 8 bytes each whatever the input's type
_UNMADE = ("object", "sequence")  # see TensorSpec


def open_graph(
    model: Any,
    example_inputs: Any = None,
    input_shapes: Shapes | None = None,
    *,
    standard: bool = False,
    numbers: bool = False,
    stateful: bool = False,
) -> Graph:
    """The host of a model. standard: an ONNX model in standard operators alone, for the compiler.  numbers: leave out what an ONNX model
    returns besides tensors of numbers.  stateful: take a torch model that writes its own buffers, too.

    Raises ModelError when it cannot be read, UserError when it is nothing that can be taken.
    """
    shapes = _checked_shapes(input_shapes) if input_shapes else None
    if isinstance(model, str | PathLike):
        return _open_file(Path(model), shapes, standard, numbers, stateful)
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(model).__mro__}
    if any(kind.startswith("onnx") and kind.endswith(".ModelProto") for kind in kinds):
        from sparsecc.graph.onnx.graph import OnnxGraph

        return OnnxGraph.from_proto(model, shapes, standard=standard, numbers=numbers)
    if shapes:
        raise UserError("input_shapes: only an ONNX model takes them; a torch model has them from its example inputs")
    if "torch.export.exported_program.ExportedProgram" in kinds:
        from sparsecc.graph.fx.graph import FxGraph

        return FxGraph.from_exported(model, stateful=stateful)
    if "torch.nn.modules.module.Module" in kinds:
        return _export(model, example_inputs, stateful)
    raise UserError(f"a {type(model).__name__} is no model; pass an nn.Module, an ExportedProgram, or an ONNX file or ModelProto")


def _checked_shapes(shapes: Any) -> dict[str, tuple[int, ...]]:
    try:
        return {name: tuple(operator.index(size) for size in shape) for name, shape in shapes.items()}
    except (TypeError, AttributeError):
        raise InputError(f"input_shapes: expected sizes by name, as {{'image': (1, 3, 224, 224)}}, not {shapes!r}") from None


def _open_file(path: Path, shapes: dict[str, tuple[int, ...]] | None, standard: bool, numbers: bool, stateful: bool) -> Graph:
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:  # a name that is too long
        raise ModelError(f"{path}: no such file: {error.strerror}") from None
    require_regular(path, ModelError)
    if not is_file:
        raise ModelError(f"{path}: is a folder; name a file" if is_folder else f"{path}: no such file")
    if path.suffix == ".pt2":
        from sparsecc.graph.fx.graph import FxGraph

        return FxGraph.load(path, stateful)
    if path.suffix == ".sparsecc":
        raise ModelError(f"{path}: is compiled already; sparsecc.load reads it")
    from sparsecc.graph.onnx.graph import OnnxGraph

    return OnnxGraph.from_file(path, shapes, standard=standard, numbers=numbers)


def _export(module: Any, example_inputs: Any, stateful: bool) -> Graph:
    if example_inputs is None:
        raise UserError(f"example_inputs: needed to trace {type(module).__name__}; pass a tuple of tensors, or a dict by name")
    from sparsecc.graph.fx.graph import FxGraph

    inputs = example_inputs if isinstance(example_inputs, Mapping) else as_tuple(example_inputs)
    return FxGraph.from_module(module, inputs, stateful=stateful)


def name_of(model: Any) -> str:
    """What a report calls the model: the file's name, else the class's."""
    if isinstance(model, str | PathLike):
        return Path(model).name
    return getattr(getattr(model, "graph", None), "name", "") or type(model).__name__


Source = Literal["example", "calibration", "random"]


def example(specs: Sequence[TensorSpec], given: Any, calibration: Sequence[Sample] | None, model: Any = None) -> tuple[Sample, Source]:
    """One set of inputs and where it is from: the caller's, else the first calibration sample, else what an
    ExportedProgram was traced with, else made from the shapes.

    Raises InputError when a shape is not known.
    """
    from sparsecc.graph.inputs import checked  # which imports torch

    if given is not None:
        return checked(specs, in_order(specs, given)), "example"
    if calibration:
        return calibration[0], "calibration"
    stored = getattr(model, "example_inputs", None)
    if stored:
        return checked(specs, in_order(specs, tensors_in(stored))), "example"
    return checked(specs, random_inputs(specs)), "random"


def shapes_known(specs: Sequence[TensorSpec]) -> bool:
    """Whether inputs can be made: tensors of numbers, of known shapes."""
    return all(isinstance(size, int) for spec in specs for size in spec.shape) and not any(spec.dtype in _UNMADE for spec in specs)


def random_inputs(
    specs: Sequence[TensorSpec], like: Sequence[Any] | None = None, seed: int = 0, limits: Mapping[str, tuple[int, int]] | None = None
) -> list[Any]:
    """Normal deviates for floats. Integers and booleans, which are indices and masks as a rule, take their values from `like`, or are
    drawn: within `limits` where these know the table (see `codegen.library`), else from 0 and 1, a 1 first.

    like: inputs to take the shapes from. Raises InputError when a shape is not known.
    """
    generator, known = np.random.default_rng(seed), limits or {}
    values = []
    for i, spec in enumerate(specs):
        try:
            values.append(_random(spec, like[i] if like is not None else None, known.get(spec.name), generator))
        except MemoryError:
            raise _too_large(spec) from None
    return values


def _random(spec: TensorSpec, like: Any, limits: tuple[int, int] | None, generator: np.random.Generator) -> np.ndarray:
    if like is None and spec.default is not None:
        return np.array(spec.default)
    shape = tuple(like.shape) if like is not None else _known_shape(spec)
    if spec.dtype in _UNMADE:
        raise InputError(f"input {spec.name!r} is no tensor of numbers; give samples")
    floats = np.dtype(spec.dtype).kind == "f" or spec.dtype == "bfloat16"  # which is ml_dtypes', of another kind
    if like is not None and not floats:
        return np.asarray(like)
    if math.prod(shape) * np.dtype(spec.dtype).itemsize > memory.available():
        raise MemoryError
    drawn = np.empty(math.prod(shape), spec.dtype)
    for start in range(0, drawn.size, _PIECE):
        count = min(_PIECE, drawn.size - start)
        piece = generator.standard_normal(count) if floats else generator.integers(0, limits[1] if limits else 2, count)
        drawn[start : start + count] = piece.astype(spec.dtype)
    if not floats and limits is None:
        drawn[:1] = 1
    return drawn.reshape(shape)


def _known_shape(spec: TensorSpec) -> tuple[int, ...]:
    for axis, size in enumerate(spec.shape):
        if isinstance(size, str):
            shown = ",".join(str(n) if isinstance(n, int) else "1" for n in spec.shape)
            raise InputError(
                f"input {spec.name!r} has no fixed size at axis {axis} ({size!r}); "
                f"give its shape, as input_shapes={{{spec.name!r}: ({shown})}} or --input-shape {spec.name}:{shown}"
            )
    return tuple(int(size) for size in spec.shape)


def _too_large(spec: TensorSpec) -> InputError:
    sizes = "x".join(map(str, spec.shape))
    return InputError(f"input {spec.name!r} is {sizes}, which the memory does not hold; give another shape, or example inputs")
