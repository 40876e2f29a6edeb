"""If on data without control flow: both branches run, and one's results are taken.

    If(c, then, else)  ->  Where(c, then's results, else's results)

An ONNX operator has no effect but its results, so that a branch may run for nothing. It must not fail for nothing either, and both must
give the same sizes; an If of which that is not known stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sparsecc.graph.onnx import kept
from sparsecc.graph.onnx.loops import renamed
from sparsecc.graph.onnx.nodes import Names, constants, copied, first_result, replace_nodes, title

# What may fail by the values of its second input, indices or divisors; a constant there cannot.
_MAY_FAIL = ("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "Scatter", "Div", "Mod")
_SMALL = 4096  # numbers of a constant that conditions are made of
_STANDARD = ("", "ai.onnx")


def select(proto: onnx.ModelProto, leave: Collection[str] = ()) -> list[str]:
    """Replace one If of the main graph, in place; its results, none where there is no If that could go. One that stays carries the reason
    in its metadata.

    leave: first results of those that are not tried. Whether sizes agree shows once the rest is simplified: see `unequal`.
    """
    for place, node in enumerate(proto.graph.node):
        if node.op_type != "If" or node.domain not in _STANDARD or first_result(node) in {"", *leave}:
            continue
        branches, known = _Branches(place, node, proto.graph), _Sizes(proto).value(node.input[0])
        if known is not None:
            return branches.replace([bool(known.reshape(())[()])])
        risk = branches.risk()
        if risk is None:
            return branches.replace([True, False])
        kept.note(node, f"a branch may fail where it is not taken ({risk})")
    return []


def unequal(proto: onnx.ModelProto, results: Collection[str]) -> bool:
    """Whether a result is chosen between two whose sizes are not known to be the same."""
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    shapes = _shapes(inferred.graph)
    chosen = [node for node in proto.graph.node if node.op_type == "Where" and node.output[0] in results]
    return any(shapes.get(node.input[1]) is None or shapes.get(node.input[1]) != shapes.get(node.input[2]) for node in chosen)


class _Sizes:
    """What a graph says of values that are made of constants and sizes alone: more than simplifying folds."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._shapes = _shapes(onnx.shape_inference.infer_shapes(proto, data_prop=True).graph)
        self._makers = {name: node for node in proto.graph.node for name in node.output}
        self._opsets = {imported.domain: imported.version for imported in proto.opset_import}
        given = {value.name for value in proto.graph.input}
        small = [t for t in proto.graph.initializer if t.name not in given and np.prod(t.dims) <= _SMALL]
        self._known: dict[str, np.ndarray | None] = {tensor.name: numpy_helper.to_array(tensor) for tensor in small}

    def value(self, name: str) -> np.ndarray | None:
        if name not in self._known:
            self._known[name] = None  # while it is looked for
            self._known[name] = self._made(name)
        return self._known[name]

    def _made(self, name: str) -> np.ndarray | None:
        node = self._makers.get(name)
        if node is None or node.domain not in _STANDARD or any(attribute.HasField("g") for attribute in node.attribute):
            return None
        if node.op_type in ("Shape", "Size"):
            if node.input[0] not in self._shapes:
                return None
            feeds = {node.input[0]: np.broadcast_to(np.float32(0), self._shapes[node.input[0]])}
        else:
            values = {given: self.value(given) for given in node.input if given}
            feeds = {given: value for given, value in values.items() if value is not None}
            if len(feeds) < len(values) or node.op_type.startswith("Random"):
                return None
        try:
            results = list(ReferenceEvaluator(node, opsets=self._opsets).run(None, feeds))
            return np.asarray(results[list(node.output).index(name)])
        except Exception:  # noqa: BLE001 - whatever onnx's evaluator raises, it only means that nothing is known
            return None


@dataclass
class _Branches:
    place: int
    node: onnx.NodeProto
    graph: onnx.GraphProto

    def risk(self) -> str | None:
        """An operator that is safe to run only where its branch is taken, None where there is none."""
        known = frozenset(constants(self.graph))
        return next((name for branch in (True, False) for name in _risks(self._body(branch), known)), None)

    def replace(self, branches: Sequence[bool]) -> list[str]:
        """By the nodes of these branches, and a choice where they are two."""
        stem, results, fresh = title(self.node), [name for name in self.node.output if name], Names(self.graph)
        written = [list(self._written(branch, f"{stem}/{'then' if branch else 'else'}/", fresh)) for branch in branches]
        given = list(zip(*(nodes.pop().output for nodes in written), strict=True))
        made = [node for nodes in written for node in nodes]
        if len(branches) == 1:
            made += [helper.make_node("Identity", values, [name]) for values, name in zip(given, self.node.output, strict=False) if name]
        else:
            condition = fresh.free(f"{stem}/condition")
            no_axes = numpy_helper.from_array(np.array([], np.int64), fresh.free(f"{stem}/no_axes"))
            self.graph.initializer.append(no_axes)
            made.append(helper.make_node("Reshape", [self.node.input[0], no_axes.name], [condition], name=condition))
            pairs = [(values, name) for values, name in zip(given, self.node.output, strict=False) if name]
            made += [helper.make_node("Where", [condition, *values], [name], name=f"{stem}/{name}") for values, name in pairs]
        replace_nodes(self.graph, [*self.graph.node[: self.place], *made, *self.graph.node[self.place + 1 :]])
        return results

    def _body(self, branch: bool) -> onnx.GraphProto:
        name = "then_branch" if branch else "else_branch"
        return next(attribute.g for attribute in self.node.attribute if attribute.name == name)

    def _written(self, branch: bool, prefix: str, fresh: Names) -> Iterator[onnx.NodeProto]:
        """A branch's nodes under names of their own; last, one that has the results as outputs."""
        body = self._body(branch)
        own = [tensor.name for tensor in body.initializer] + [name for node in body.node for name in node.output if name]
        names = {name: fresh.free(f"{prefix}{name}") for name in own}
        for tensor in body.initializer:
            same = copied(tensor)
            same.name = names[tensor.name]
            self.graph.initializer.append(same)
        yield from (renamed(node, names, prefix) for node in body.node)
        yield onnx.NodeProto(output=[names.get(value.name, value.name) for value in body.output])


def _risks(graph: onnx.GraphProto, outer: frozenset[str]) -> Iterator[str]:
    """Operators of a branch that may fail, or give other numbers each time.  outer: constants from outside."""
    known = {*outer, *(tensor.name for tensor in graph.initializer)}
    for node in graph.node:
        if node.op_type in ("Constant", "Shape", "Size") or (node.input and known.issuperset(node.input)):
            known |= set(node.output)
            continue
        fails = node.op_type in _MAY_FAIL and node.input[1] not in known
        if fails or node.op_type.startswith("Random") or node.op_type in ("Loop", "Scan") or node.domain not in _STANDARD:
            yield f"{node.op_type} at '{title(node)}'"
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _risks(attribute.g, frozenset(known))


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Of all values whose sizes are known."""
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            found[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    return found
