"""ONNX's LSTM, GRU and RNN: the product with the inputs as a layer over all steps, the recurrence as one placeholder for each direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparsecc.codegen.importers.base import Placeholder, Placeholders, constant_of, converter, shape_of, text_of
from sparsecc.codegen.importers.onnx.lengths import Lengths
from sparsecc.codegen.recurrent import ACTIVATIONS, GATES, MULTIPLE, RecurrentSpec
from sparsecc.codegen.tvm_api import relax
from sparsecc.errors import ModelError

_USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def recurrent_converters(placeholders: Placeholders) -> dict[str, Any]:
    """By op_type, for TVM's table of converters."""

    def made(cell: str) -> Any:
        return converter(lambda builder, inputs, attributes: _recurrent(builder, cell, inputs, attributes, placeholders))

    return {cell: made(cell) for cell in GATES}


@dataclass(frozen=True)
class Layer:
    """One direction, rows padded: each gate's to `spec.hidden`.  w: [rows, inputs].  bias: [rows].  extra: see `kernels.recurrent`."""

    spec: RecurrentSpec
    w: np.ndarray
    r: np.ndarray
    bias: np.ndarray
    extra: np.ndarray


def _recurrent(builder: Any, cell: str, inputs: list[Any], attributes: dict[str, Any], placeholders: Placeholders) -> Any:
    """(Y, Y_h, Y_c): [steps, directions, batch, hidden], then of the last step; with layout 1 the batch comes first."""
    x, w, r, b, lengths, h0, c0, peepholes = (*inputs, *[None] * 8)[:8]
    first = bool(attributes.get("layout", 0))
    x = builder.emit(relax.op.permute_dims(x, [1, 0, 2])) if first else x
    steps, batch, _ = shape_of(x)
    uneven = Lengths.of(builder, lengths, steps)
    check(cell, attributes, uneven is not None)
    weights, recurrent = constant_of(w, "W"), constant_of(r, "R")
    directions, _, hidden = recurrent.shape
    bias = np.zeros((directions, 2 * len(weights[0])), np.float32) if b is None else constant_of(b, "B")
    holes = np.zeros((directions, 3 * hidden), np.float32) if peepholes is None else constant_of(peepholes, "P")
    made = []
    for place, spec in enumerate(specs(cell, attributes, steps, batch, hidden)):
        layer = layer_of(spec, weights[place], recurrent[place], bias[place], holes[place])
        state = [state_of(builder, value, place, spec, first) for value in (h0, c0)]
        product = builder.emit(relax.op.matmul(x, relax.const(np.ascontiguousarray(layer.w.T))))
        projected = builder.emit(relax.op.add(product, relax.const(layer.bias)))
        if uneven is None:
            made.append(directed(builder, projected, layer, state, placeholders))
            continue
        onward = replace(layer, spec=replace(spec, reverse=False))
        found = directed(builder, uneven.entering(spec, projected), onward, state, placeholders)
        made.append(uneven.leaving(spec, found))
    results = stacked(builder, made)
    return relax.Tuple([_batch_first(builder, y) for y in results] if first else results)


def stacked(builder: Any, made: Sequence[Sequence[Any]]) -> list[Any]:
    """Of each direction's results, those of all directions."""
    return [builder.emit(relax.op.stack(list(part), axis=axis)) for part, axis in zip(zip(*made, strict=True), (1, 0, 0), strict=False)]


def specs(cell: str, attributes: dict[str, Any], steps: int, batch: int, hidden: int) -> list[RecurrentSpec]:
    """One for each direction."""
    reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[text_of(attributes.get("direction", "forward"))]
    names = [text_of(name) for name in attributes.get("activations", [])] or list(_USUAL[cell]) * len(reverse)
    after = bool(attributes.get("linear_before_reset", 0)) and cell == "GRU"
    found = []
    for place, backwards in enumerate(reverse):
        activations = tuple(names[place * len(_USUAL[cell]) :][: len(_USUAL[cell])])
        found.append(RecurrentSpec(cell, steps, batch, -(-hidden // MULTIPLE) * MULTIPLE, hidden, activations, backwards, after))
    return found


def check(cell: str, attributes: dict[str, Any], uneven: bool) -> None:
    """uneven: whether sequences may end before the last step.  Raises ModelError."""
    if attributes.get("clip") or attributes.get("input_forget"):
        raise ModelError("clip and input_forget are not supported")
    names = [text_of(name) for name in attributes.get("activations", [])]
    unknown = [name for name in names if name not in ACTIVATIONS]
    if unknown:
        raise ModelError(f"activation {unknown[0]} is not supported, only {', '.join(ACTIVATIONS)}")
    gates = names[:: len(_USUAL[cell])]
    if uneven and cell == "LSTM" and not {*gates} <= {"Sigmoid", "HardSigmoid"}:
        raise ModelError(f"sequence_lens with gates by {', '.join(gates)}: not supported, only by Sigmoid and HardSigmoid")
    if len(attributes.get("activation_alpha", ())) or len(attributes.get("activation_beta", ())):
        raise ModelError("activation_alpha and activation_beta are not supported")


def layer_of(spec: RecurrentSpec, w: np.ndarray, r: np.ndarray, bias: np.ndarray, peepholes: np.ndarray) -> Layer:
    ours, theirs = np.split(bias, 2)  # of the inputs, of the recurrence
    extra = np.zeros((3, spec.hidden), np.float32)
    if spec.cell == "LSTM":
        extra[:, : spec.depth] = peepholes.reshape(3, spec.depth)
    if spec.reset_after:
        extra[0, : spec.depth] = theirs[2 * spec.depth :]
        theirs = np.concatenate([theirs[: 2 * spec.depth], np.zeros(spec.depth, np.float32)])
    return Layer(spec, padded(spec, w), padded(spec, r), padded(spec, (ours + theirs)[:, None])[:, 0], extra)


def padded(spec: RecurrentSpec, rows: np.ndarray) -> np.ndarray:
    """[gates · depth, n] with each gate's rows padded to `hidden`."""
    gates = GATES[spec.cell]
    wide = np.zeros((gates, spec.hidden, rows.shape[1]), rows.dtype)
    wide[:, : spec.depth] = rows.reshape(gates, spec.depth, -1)
    return wide.reshape(spec.rows, -1)


def state_of(builder: Any, given: Any, place: int, spec: RecurrentSpec, first: bool) -> Any:
    """[batch, hidden] of one direction; zeros where the model gives none."""
    if given is None:
        return relax.const(np.zeros((spec.batch, spec.hidden), np.float32))
    axis = 1 if first else 0
    one = builder.emit(relax.op.strided_slice(given, [axis], [place], [place + 1]))
    one = builder.emit(relax.op.reshape(one, [spec.batch, spec.depth]))
    return one if spec.hidden == spec.depth else builder.emit(relax.op.nn.pad(one, [0, 0, 0, spec.hidden - spec.depth]))


def directed(builder: Any, projected: Any, layer: Layer, state: list[Any], placeholders: Placeholders) -> list[Any]:
    """h of all steps, h of the last one, and of an LSTM c of the last one.  projected: the inputs multiplied."""
    spec = layer.spec
    placeholder = Placeholder("recurrent", spec.cell, {"spec": spec, "weight": layer.r, "extra": layer.extra})
    result = builder.emit(placeholders.call(placeholder, [projected, *state], list(spec.out)))
    end = 0 if spec.reverse else spec.steps - 1
    found = [_cut(builder, result, 0, spec.steps, spec), _cut(builder, result, end, end + 1, spec, flat=True)]
    return [*found, _cut(builder, result, spec.steps, spec.steps + 1, spec, flat=True)] if spec.cell == "LSTM" else found


def _cut(builder: Any, result: Any, start: int, end: int, spec: RecurrentSpec, flat: bool = False) -> Any:
    cut = builder.emit(relax.op.strided_slice(result, [0, 2], [start, 0], [end, spec.depth]))
    return builder.emit(relax.op.reshape(cut, [spec.batch, spec.depth])) if flat else cut


def _batch_first(builder: Any, y: Any) -> Any:
    return builder.emit(relax.op.permute_dims(y, [2, 0, 1, 3] if len(shape_of(y)) == 4 else [1, 0, 2]))
