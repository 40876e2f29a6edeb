"""Strides of 1×1 convolutions, moved up into what computes their input, so that pixels that nothing reads are not computed.

ResNets begin a stage with 1×1 convolutions of stride 2: of the last 3×3 and 1×1 convolution of the stage before, three quarters of the
pixels are never read, 9 % of all multiplications of opennsfw.
"""

from __future__ import annotations

from dataclasses import replace

from sparsecc.codegen.recognize.program import Geometry, Layer, Node, Program, Subsampled, Var, shape
from sparsecc.codegen.tvm_api import relax

Stride = tuple[int, int]


def move_strides_up(program: Program) -> None:
    """Rewrite the program's layers in place; what they compute at the pixels that are read stays the same."""
    subsampled: dict[tuple[Var, Stride], Node] = {}
    for node in reversed(list(program.nodes)):
        stride = _stride_of_all_users(program, node)
        if stride is None or not isinstance(node.what, Layer) or node.what.geometry is None or not _strides(node.what):
            continue
        layer, geometry, small = node.what, node.what.geometry, relax.Var(node.var.name, _every(node.var, stride))
        for user in program.users[node.var]:
            assert isinstance(user.what, Layer) and user.what.geometry is not None
            user.what.x, user.what.geometry = small, replace(user.what.geometry, stride=(1, 1))
        node.var, layer.geometry = small, replace(geometry, stride=_product(geometry.stride, stride))
        if layer.residual is not None:
            layer.residual = _every_pixel(program, subsampled, layer.residual, stride)
        program.refresh()


def _stride_of_all_users(program: Program, node: Node) -> Stride | None:
    """The stride above 1 with which every user reads a value; None where they differ or the model gives the value out."""
    users = program.users.get(node.var, [])
    if not users or any(node.var == out for out in program.outputs_vars()):
        return None
    first = _geometry(users[0])
    if first is None or first.stride == (1, 1):
        return None
    alike = all(g is not None and g.pointwise and not g.transposed and g.stride == first.stride for g in map(_geometry, users))
    as_input = all(isinstance(user.what, Layer) and user.what.residual != node.var for user in users)
    return first.stride if alike and as_input else None


def _geometry(node: Node) -> Geometry | None:
    return node.what.geometry if isinstance(node.what, Layer) else None


def _strides(layer: Layer) -> bool:
    """Whether the kernel of a convolution can leave pixels out."""
    assert layer.geometry is not None
    return not layer.geometry.transposed and layer.geometry.phases == (1, 1) and (layer.residual is None or layer.geometry.pointwise)


def _every_pixel(program: Program, known: dict[tuple[Var, Stride], Node], x: Var, stride: Stride) -> Var:
    """A new node right behind x, or before all others where x is an input: the pixels of x at multiples of the stride."""
    if (x, stride) not in known:
        node = Node(relax.Var(f"{x.name}_subsampled", _every(x, stride)), x, "subsampled", [], Subsampled(x, stride))
        producer = program.node(x)
        program.nodes.insert(0 if producer is None else program.nodes.index(producer) + 1, node)
        known[x, stride] = node
    return known[x, stride].var


def _every(x: Var, stride: Stride) -> relax.TensorType:
    batch, channels, *pixels = shape(x)
    return relax.TensorType([batch, channels, *(-(-size // s) for size, s in zip(pixels, stride[-len(pixels) :], strict=True))], "float32")


def _product(a: Stride, b: Stride) -> Stride:
    return a[0] * b[0], a[1] * b[1]
