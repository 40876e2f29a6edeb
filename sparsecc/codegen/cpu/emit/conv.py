"""Convolutions as calls of the matrix kernel that the chooser picks, over planes that are copied out of images and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparsecc.codegen.cpu.convolve import Plane, compact_pitch, plane_of
from sparsecc.codegen.cpu.forms import Forms
from sparsecc.codegen.cpu.layout import Planes, Value, layout_of
from sparsecc.codegen.cpu.operators import plane_copy
from sparsecc.codegen.cpu.operators.plane_copy import PlaneCopySpec
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.recognize.program import Expr, Layer, Node, Subsampled, Var, image_shape, shape
from sparsecc.codegen.spec import Epilogue, MatmulSpec
from sparsecc.codegen.tvm_api import relax

Matmul = Callable[[MatmulSpec, Layer, Expr, Expr | None], Var]  # emits the kernel that is chosen for a layer


def emit_conv2d(forms: Forms, target: Target, matmul: Matmul, node: Node, layer: Layer, epilogue: Epilogue) -> Value:
    assert layer.geometry is not None
    _, _, *sizes = image_shape(layer.x)
    _, _, *out = image_shape(node.var)
    if sizes == out == [1, 1]:
        return _conv_of_one_pixel(forms, target, matmul, node, layer, epilogue)
    planes = convolved(forms, target, matmul, layer, (out[0], out[1]), epilogue)
    return _image_in(forms, target, planes.held, planes.cols, shape(node.var))


def convolved(
    forms: Forms,
    target: Target,
    matmul: Matmul,
    layer: Layer,
    out: tuple[int, int],
    epilogue: Epilogue,
    taps: Sequence[int] | None = None,
) -> Planes:
    """All rows of a layer at `out` positions (height, width), from the top left on.  taps: that the weight has, of all in the kernel."""
    assert layer.geometry is not None
    batch, channels, height, width = image_shape(layer.x)
    plane = plane_of(layer.geometry, (height, width), out, target.lanes)
    x = _plane(forms, target, layer.x, plane)
    places = plane.taps if taps is None else tuple(plane.taps[tap] for tap in taps)
    spec = MatmulSpec(layer.rows, channels, batch, plane.positions, plane.size, plane.pitch, places, epilogue)
    residual = None if layer.residual is None else compact(forms, target, layer.residual)  # only where plane.cols == plane.width
    return Planes(matmul(spec, layer, x, residual), plane.cols)


def _conv_of_one_pixel(forms: Forms, target: Target, matmul: Matmul, node: Node, layer: Layer, epilogue: Epilogue) -> Value:
    """Of 1×1 images, a convolution is a linear layer over the batch (squeeze-and-excitation) by the tap that meets the pixel."""
    assert layer.geometry is not None
    (kh, kw), (dh, dw), (top, left) = layer.geometry.kernel, layer.geometry.dilation, layer.geometry.padding[:2]
    batch, channels = shape(layer.x)[:2]
    met = (top % dh, left % dw) == (0, 0) and 0 <= top // dh < kh and 0 <= left // dw < kw
    taps = layer.matrix.reshape(layer.rows, kh, kw, channels)
    matrix = taps[:, top // dh, left // dw] if met else np.zeros((layer.rows, channels), np.float32)
    layout = layout_of((batch, channels), target.lanes)
    x = forms.op(relax.op.reshape(forms.natural(layer.x), [batch, channels]))
    residual = None if layer.residual is None else forms.tile(forms.natural(layer.residual), layout, len(matrix))
    spec = MatmulSpec.linear(len(matrix), channels, layout.tiles, layout.tile, epilogue)
    y = matmul(spec, replace(layer, weight=matrix, geometry=None), forms.tile(x, layout, channels), residual)
    flat = Value((batch, len(matrix)), tiled=y, layout=layout)
    return Value(shape(node.var), natural=forms.op(relax.op.reshape(forms.untile(flat), list(shape(node.var)))))


def _plane(forms: Forms, target: Target, x: Var, plane: Plane) -> Expr:
    """[batch, channels, height, width] → [batch, channels, plane.size], padded, with the phases of a stride one behind the other."""
    batch, channels, height, width = image_shape(x)
    top, left = plane.padding[:2]
    if (plane.skip, plane.phases, top, left, len(plane.taps)) == ((1, 1), (1, 1), 0, 0, 1) and (plane.rows, plane.cols) == (height, width):
        return compact(forms, target, x)
    image = image_of(forms, x, plane.skip)
    spec = PlaneCopySpec(batch, channels, *image.sizes, image.size, plane.rows, plane.cols, plane.size, top, left, plane.phases)
    return _copied(forms, target, image.held, spec)


def compact(forms: Forms, target: Target, x: Expr) -> Expr:
    """[batch, channels, height, width] → [batch, channels, `compact_pitch`], rows one behind the other."""
    batch, channels, height, width = image_shape(x)
    image, pitch = image_of(forms, x), compact_pitch(height * width)
    if image.strides == (channels * pitch, pitch, width, 1):
        return forms.op(relax.op.reshape(image.held, [batch, channels, pitch]))
    spec = PlaneCopySpec(batch, channels, *image.sizes, image.size, height, width, pitch)
    return _copied(forms, target, image.held, spec)


def emit_subsampled(forms: Forms, target: Target, node: Node, what: Subsampled) -> Value:
    batch, channels, height, width = image_shape(node.var)
    image = image_of(forms, what.x, what.stride)
    spec = PlaneCopySpec(batch, channels, *image.sizes, image.size, height, width, compact_pitch(height * width))
    return _image_in(forms, target, _copied(forms, target, image.held, spec), width, shape(node.var))


@dataclass(frozen=True)
class Image:
    """Where an image lies.  held: of `size` elements.  strides: in it, of batch, channel, row and column."""

    held: Expr
    height: int
    width: int
    strides: tuple[int, int, int, int]
    size: int

    @property
    def sizes(self) -> tuple[int, int, tuple[int, int, int, int]]:
        return self.height, self.width, self.strides


def image_of(forms: Forms, x: Expr, skip: tuple[int, int] = (1, 1)) -> Image:
    """Every skip'th pixel of x: in the planes that a convolution has written, or in what was only transposed."""
    _, channels, *sizes = image_shape(x)
    value, node = forms.values.get(x) if isinstance(x, relax.Var) else None, forms.program.node(x)
    if value is not None and value.planes is not None:
        held, cols = value.planes.held, value.planes.cols
        pitch = shape(held)[2]
        of_batch, of_channel, of_row, of_col = channels * pitch, pitch, cols, 1
    elif node is not None and node.op == "permute_dims" and [int(a) for a in node.attrs.axes or ()] in _CHANNELS_LAST:
        held, (height, width) = forms.natural(node.args[0]), sizes
        of_batch, of_channel, of_row, of_col = height * width * channels, 1, width * channels, channels
    else:
        held, (height, width) = forms.natural(x), sizes
        of_batch, of_channel, of_row, of_col = channels * height * width, height * width, width, 1
    height, width = (-(-size // s) for size, s in zip(sizes, skip, strict=True))
    return Image(held, height, width, (of_batch, of_channel, of_row * skip[0], of_col * skip[1]), math.prod(shape(held)))


_CHANNELS_LAST = ([0, 3, 1, 2], [0, 2, 1])  # turned to channels first


def _image_in(forms: Forms, target: Target, held: Var, cols: int, out: tuple[int, ...]) -> Value:
    """The image of a shape that lies in planes; as the tensor that it is once somebody asks."""
    batch, channels, *pixels = out
    height, width = pixels if len(pixels) == 2 else (1, *pixels)
    pitch = shape(held)[2]

    def natural() -> Expr:
        tensor: Expr = held
        if (pitch, cols) != (height * width, width):
            strides = (channels * pitch, pitch, cols, 1)
            spec = PlaneCopySpec(batch, channels, height, width, strides, math.prod(shape(held)), height, width, height * width)
            tensor = _copied(forms, target, held, spec)
        return forms.op(relax.op.reshape(tensor, list(out)))

    return Value(out, planes=Planes(held, cols), later=natural)


def _copied(forms: Forms, target: Target, x: Expr, spec: PlaneCopySpec) -> Expr:
    """Made once for all layers that read the same planes."""
    if (x, spec) not in forms.copies:
        kernel = forms.kernel(spec, lambda: plane_copy.build(spec, target))
        forms.copies[x, spec] = forms.call(kernel, [forms.op(relax.op.reshape(x, [spec.x_size]))], spec.y_shape)
    return forms.read([forms.copies[x, spec]])[0]
