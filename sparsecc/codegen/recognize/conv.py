"""Rules for the convolutions that are no plain matrix product, and for what learned scales leave behind an activation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparsecc.codegen.recognize.program import (
    Expr,
    Geometry,
    Layer,
    Node,
    Program,
    dtype,
    four_sides,
    image_shape,
    in_line,
    line_sides,
    pair,
    shape,
)
from sparsecc.codegen.tvm_api import relax

_LAYOUTS = {
    "nn.conv1d": ("NCW", "OIW"),
    "nn.conv2d": ("NCHW", "OIHW"),
    "nn.conv1d_transpose": ("NCW", "IOW"),
    "nn.conv2d_transpose": ("NCHW", "IOHW"),
}


def convolution(program: Program, node: Node) -> Layer | None:
    """A convolution of one group, of images or along lines."""
    weight = _weight(program, node, "nn.conv1d", "nn.conv2d")
    if weight is None or int(node.attrs.groups) != 1:
        return None
    out, channels, kh, kw = weight.shape
    return Layer(node.args[0], weight.transpose(0, 2, 3, 1).reshape(out, kh * kw * channels), geometry=_geometry(node, (kh, kw)))


def depthwise(program: Program, node: Node) -> Layer | None:
    """A convolution with as many groups as channels, each of one output."""
    weight = _weight(program, node, "nn.conv1d", "nn.conv2d")
    if weight is None or weight.shape[1] != 1 or int(node.attrs.groups) != len(weight):
        return None
    channels, _, kh, kw = weight.shape
    return Layer(node.args[0], weight.reshape(channels, kh * kw), geometry=replace(_geometry(node, (kh, kw)), depthwise=True))


def _weight(program: Program, node: Node, *operators: str) -> np.ndarray | None:
    """The constant weight of a float32 convolution, of images: a kernel along lines has height 1."""
    if node.op not in operators or dtype(node.var) != "float32" or not isinstance(node.args[0], relax.Var):
        return None
    weight = program.constant(node.args[1])
    if weight is None or (node.attrs.data_layout, node.attrs.kernel_layout) != _LAYOUTS[node.op]:
        return None
    return weight if weight.ndim == 4 else weight[:, :, None, :]


def _geometry(node: Node, kernel: tuple[int, int]) -> Geometry:
    two, sides = (in_line, line_sides) if "conv1d" in node.op else (pair, four_sides)
    attrs = node.attrs
    return Geometry(kernel, two(attrs.strides), sides(attrs.padding), two(attrs.dilation))


def overlapping(program: Program, node: Node) -> Layer | None:
    """Any other transposed convolution: one of stride 1 that computes all phases of the result, which are spread out afterwards.

    Result o = s·q + φ - padding is the sum over j of x[q - j] w[s·j + φ], so that each phase φ is a convolution with every s-th tap. Where
    the kernel is no multiple of the stride, zeros stand for the taps that some phases have not.
    """
    weight = _weight(program, node, "nn.conv1d_transpose", "nn.conv2d_transpose")
    if weight is None or int(node.attrs.groups) != 1:
        return None
    inputs, outputs, *kernel = weight.shape
    geometry = _geometry(node, (kernel[0], kernel[1]))
    if geometry.dilation != (1, 1):
        return None
    (sh, sw), (top, left, _, _) = geometry.stride, geometry.padding
    jh, jw = (-(-size // step) for size, step in zip(kernel, geometry.stride, strict=True))
    whole = np.zeros((inputs, outputs, jh * sh, jw * sw), np.float32)
    whole[:, :, : kernel[0], : kernel[1]] = weight
    taps = whole.reshape(inputs, outputs, jh, sh, jw, sw)[:, :, ::-1, :, ::-1]  # a convolution reads from left to right
    matrix = np.ascontiguousarray(taps.transpose(3, 5, 1, 2, 4, 0)).reshape(sh * sw * outputs, jh * jw * inputs)
    padding = (jh - 1 - top // sh, jw - 1 - left // sw, 0, 0)  # the rest follows from the size of the result
    spread = Geometry((jh, jw), (1, 1), padding, (1, 1), phases=(sh, sw), crop=(top % sh, left % sw))
    return Layer(node.args[0], matrix, geometry=spread)


def along_lines(program: Program, node: Node) -> bool:
    """squeeze(layer(expand_dims(x)))  ->  layer(x), as a sparse convolution along lines is written; whether that was so."""
    before = program.node(node.args[0]) if node.op in _VIEWS and node.args else None
    layer = before.what if before is not None else None
    if not isinstance(layer, Layer) or layer.geometry is None or before is None or program.only_user(before.var) is not node:
        return False
    lifted = program.node(layer.x)
    if layer.residual is not None or lifted is None or lifted.op not in _VIEWS or not isinstance(lifted.args[0], relax.Var):
        return False
    if not all(_is_line_of(line, image) for line, image in ((node.var, before.var), (lifted.args[0], lifted.var))):
        return False
    layer.x = lifted.args[0]
    node.op, node.what, node.args = "layer", layer, []
    program.nodes.remove(before)
    return True


_VIEWS = ("expand_dims", "squeeze", "reshape")


def _is_line_of(line: Expr, image: Expr) -> bool:
    return len(shape(line)) == 3 and shape(image) == image_shape(line)


def transposed(program: Program, node: Node) -> Layer | None:
    """A transposed convolution whose pixels do not overlap: a matrix product with kh·kw·out rows, pixels side by side afterwards."""
    weight = program.constant(node.args[1]) if node.op == "nn.conv2d_transpose" and dtype(node.var) == "float32" else None
    if weight is None or weight.ndim != 4 or node.attrs.data_layout != "NCHW" or node.attrs.kernel_layout != "IOHW":
        return None
    inputs, outputs, kh, kw = weight.shape
    attrs = node.attrs
    plain = (int(attrs.groups), four_sides(attrs.padding), pair(attrs.output_padding)) == (1, (0, 0, 0, 0), (0, 0))
    if not plain or pair(attrs.strides) != (kh, kw) or pair(attrs.dilation) != (1, 1):
        return None
    matrix = weight.transpose(2, 3, 1, 0).reshape(kh * kw * outputs, inputs)
    return Layer(node.args[0], matrix, geometry=Geometry((kh, kw), (kh, kw), (0, 0, 0, 0), (1, 1), transposed=True))


def outputs_and_taps(layer: Layer) -> tuple[int, int]:
    """The rows of a layer as outputs, and how often each of them comes."""
    taps = 1
    if layer.geometry is not None:
        rows, cols = layer.geometry.kernel if layer.geometry.transposed else layer.geometry.phases
        taps = rows * cols
    return layer.rows // taps, taps


def scale_and_shift(program: Program, layer: Layer, user: Node, other: Expr) -> bool:
    """act(x) · a + c with numbers a and c  ->  the layer's scale and shift; whether `user` was one of the two."""
    number = program.scalar(other)
    whole = layer.residual is None or layer.residual_first
    if layer.activation is None or number is None or not whole or dtype(user.var) != "float32" or user.op not in ("multiply", "add"):
        return False
    if user.op == "multiply":
        layer.scale, layer.shift = layer.scale * number, layer.shift * number
    else:
        layer.shift += number
    return True
