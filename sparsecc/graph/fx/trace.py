"""From a torch module to a functional aten graph, with free dimensions where the model allows them."""

from __future__ import annotations

import contextlib
import enum
import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from sparsecc.errors import ModelError
from sparsecc.graph.fx import blame, nested, records
from sparsecc.graph.fx.evaluating import evaluating
from sparsecc.graph.fx.layers import aten
from sparsecc.graph.fx.limit import TookTooLong, time_limit
from sparsecc.graph.fx.state import restored

logger = logging.getLogger(__name__)

_tracing = threading.RLock()

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
_TORCHS_NOTES = r" \(unhinted: .*"  # of no use to who does not debug torch
_SECONDS, _SECONDS_PER_MODULE = 12.0, 0.15  # of computing, for a trace with free sizes; BERT-base, of 228 modules, takes 15


def export(module: nn.Module, inputs: Inputs, state: bool = False) -> Traced:
    """Trace with every input dimension free where torch.export can keep it so, else with the first one, else with the shapes of `inputs`.

    A batch of one is traced as a batch of two: torch.export fixes a dimension of size one for good. A trace with free
    dimensions is taken only when it accepts the module's inputs and computes what the module does, and when it is done in time.
    state: take a model that writes its own buffers, too. Raises ModelError with torch's reason.
    """
    with quiet(), evaluating(module):
        try:
            returned = _call(module, inputs, state)
        except Exception as error:
            raise ModelError(f"the model fails on the example inputs: {one_line(error)}") from error
        records.register(returned)
        expected = _leaves(returned)
        with nested.traceable(module):
            return _freest(module, inputs, expected, state)


def _freest(module: nn.Module, inputs: Inputs, expected: list[Any], state: bool) -> Traced:
    """The first attempt that succeeds."""
    seconds = _SECONDS + _SECONDS_PER_MODULE * sum(1 for _ in module.modules())
    notes: tuple[str, ...] = ()
    for what, sizes, axes in _attempts(inputs):
        if notes and what is not Freedom.FIRST:
            continue  # one size less to be free does not make it fast
        try:
            with time_limit(seconds):
                return replace(_free(module, sizes, axes, inputs, expected, state), notes=notes)
        except StateChange:
            raise
        except TookTooLong:
            reason = f"tracing with {what.value} free took longer than {seconds:.0f} s, so that fewer are"
            notes = (*notes, reason)
        except Exception as error:  # noqa: BLE001  torch.export raises nearly every type; the next attempt decides, or the last
            reason = one_line(error)
        logger.debug("not with %s free: %s", what.value, reason)
    return replace(unlift(functional(export_fixed(module, inputs)), state), notes=notes)


class Freedom(enum.Enum):
    """What of the inputs' shapes a trace leaves free."""

    ALL = "all sizes"
    NOT_THE_BATCH = "all sizes but the batch"
    FIRST = "the first size of each input"


def _attempts(inputs: Inputs) -> Iterator[tuple[Freedom, Inputs, list[list[int]]]]:
    """What is free, the inputs to trace with, and the free axes of each tensor."""
    tensors = _tensors(inputs)
    every = [list(range(tensor.dim())) for tensor in tensors]
    first = [axes[:1] for axes in every]
    if not any(every):
        return
    two = _two_batches(inputs)
    yield Freedom.ALL, two, every
    if two is not inputs:
        yield Freedom.NOT_THE_BATCH, inputs, every
    if first != every:
        yield Freedom.FIRST, two, first


def _free(module: nn.Module, sizes: Inputs, axes: list[list[int]], inputs: Inputs, expected: list[Any], state: bool) -> Traced:
    """Raises what torch raises, and ValueError for a trace that is not of this module."""
    program = functional(export_free(module, sizes, axes))
    if not _same(expected, _leaves(_call(program.module(check_guards=True), inputs, state))):
        raise ValueError("the trace computes something else")
    return unlift(program, state)


def export_fixed(module: nn.Module, inputs: Inputs) -> ExportedProgram:
    """Export for the shapes of these inputs only. Raises ModelError with torch's reason."""
    with quiet():
        try:
            return torch.export.export(module, *inputs, strict=False)
        except ModelError as error:
            raise ModelError(one_line(error)) from error  # torch has added where in its own code it was
        except Exception as error:
            place = blame.place_of(module, error)
            reason = re.sub(_TORCHS_NOTES, "", one_line(error)) + (f" (at {place})" if place else "")
            raise ModelError(f"torch.export cannot trace the model: {reason}") from error


def export_free(module: nn.Module, inputs: Inputs, free: Sequence[Sequence[int]] | None = None) -> ExportedProgram:
    """Export with these axes of each input tensor free to change (all of them by default), as far as the model allows it."""
    args, kwargs = inputs
    tensors = _tensors(inputs)
    shapes = torch.export.ShapesCollection()
    for tensor, axes in zip(tensors, free or [range(tensor.dim()) for tensor in tensors], strict=True):
        shapes[tensor] = {axis: Dim.AUTO if axis in axes else Dim.STATIC for axis in range(tensor.dim())}
    with quiet():
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes.dynamic_shapes(module, args, kwargs), strict=False)


def functional(program: ExportedProgram) -> ExportedProgram:
    """Without in-place operators and nested graphs; linear, convolution, attention and norms stay whole."""
    with quiet():
        try:
            return program.run_decompositions(_NORMAL_FORM)
        except Exception as error:
            raise ModelError(f"torch.export cannot make the model functional: {one_line(error)}") from error


@dataclass(frozen=True)
class Traced:
    """A program as a module whose graph reads its own tensors. guards: raises AssertionError for inputs that the trace is not valid for.
    notes: what a report says of it."""

    module: GraphModule
    guards: nn.Module | None
    notes: tuple[str, ...] = ()


class StateChange(ModelError):
    """A model that remembers."""


def unlift(program: ExportedProgram, state: bool = False) -> Traced:
    """state: take a program that writes its own buffers. Raises StateChange for one without."""
    if not state and program.graph_signature.buffers_to_mutate:
        name = next(iter(program.graph_signature.buffers_to_mutate.values()))
        raise StateChange(f"the model changes its own buffer {name!r} when it runs; only target cuda takes models with such state")
    with quiet():
        module = program.module(check_guards=True)
    assert isinstance(module, GraphModule)
    guards = None
    for node in module.graph.find_nodes(op="call_module", target="_guards_fn"):
        guards = module.get_submodule("_guards_fn")
        module.graph.erase_node(node)
    if guards is not None:
        module.delete_submodule("_guards_fn")
    for hook in (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs):
        hook.clear()  # shape checks against the example's sizes; the guards know better
    return Traced(module, guards)


def one_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _call(module: nn.Module, inputs: Inputs, state: bool) -> Any:
    """state: what it writes into its buffers is taken back."""
    args, kwargs = inputs
    with torch.no_grad(), restored(module) if state else contextlib.nullcontext():
        return module(*args, **kwargs)


def _leaves(value: Any) -> list[Any]:
    return pytree.tree_leaves(value)


def _same(expected: Sequence[Any], found: Sequence[Any]) -> bool:
    """Whether a trace with other sizes gives the module's outputs; the tolerance is for kernels that sum in another order."""
    if len(expected) != len(found):
        return False
    for a, b in zip(expected, found, strict=True):
        if not isinstance(a, Tensor):
            continue
        if not isinstance(b, Tensor) or a.shape != b.shape or a.dtype != b.dtype:
            return False
        if not torch.allclose(a.double(), b.double(), rtol=1e-2, atol=1e-2 * _magnitude(a), equal_nan=True):
            return False
    return True


def _magnitude(tensor: Tensor) -> float:
    finite = tensor.double().nan_to_num(0.0, 0.0, 0.0)
    return float(finite.abs().max()) if finite.numel() else 0.0


def _tensors(inputs: Inputs) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]


def _two_batches(inputs: Inputs) -> Inputs:
    """The same inputs twice along axis 0, when all of them have one row there; otherwise `inputs` itself."""
    tensors = _tensors(inputs)
    if not all(tensor.dim() and tensor.shape[0] == 1 for tensor in tensors):
        return inputs
    return pytree.tree_map(lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) else leaf, inputs)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What torch.export warns, logs and prints about its own inner life is no business of the caller; what fails is raised.

    One thread at a time: stderr, warning filters and log levels are the whole process's, and two that swapped them at once would not
    put back the right ones.
    """
    log = logging.getLogger("torch")
    with _tracing, warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        level = log.level
        warnings.simplefilter("ignore")
        log.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            log.setLevel(level)


def _where_scalar_other(condition: Tensor, x: Tensor, other: float) -> Tensor:
    return aten.where.self(condition, x, aten.full.default([], other, dtype=x.dtype, device=x.device))


def _where_scalar_self(condition: Tensor, number: float, other: Tensor) -> Tensor:
    return aten.where.self(condition, aten.full.default([], number, dtype=other.dtype, device=other.device), other)


# Variants that say nothing new; what is not listed stays as torch.export left it.
_NORMAL_FORM: dict[Any, Any] = {
    aten.where.ScalarOther: _where_scalar_other,
    aten.where.ScalarSelf: _where_scalar_self,
    aten._unsafe_view.default: aten.view.default,
}
