"""Rules for the convolutions that are no plain matrix product, and for what learned scales leave behind an activation."""

from __future__ import annotations

from sparsecc.codegen.lower.program import Expr, Geometry, Layer, Node, Program, dtype, four_sides, pair


def depthwise(program: Program, node: Node) -> Layer | None:
    """A convolution with as many groups as channels, each of one output."""
    weight = program.constant(node.args[1]) if node.op == "nn.conv2d" and dtype(node.var) == "float32" else None
    if weight is None or weight.ndim != 4 or node.attrs.data_layout != "NCHW" or node.attrs.kernel_layout != "OIHW":
        return None
    channels, inputs, kh, kw = weight.shape
    if inputs != 1 or int(node.attrs.groups) != channels:
        return None
    attrs = node.attrs
    geometry = Geometry((kh, kw), pair(attrs.strides), four_sides(attrs.padding), pair(attrs.dilation), depthwise=True)
    return Layer(node.args[0], weight.reshape(channels, kh * kw), geometry=geometry)


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
    if layer.geometry is not None and layer.geometry.transposed:
        taps = layer.geometry.kernel[0] * layer.geometry.kernel[1]
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
