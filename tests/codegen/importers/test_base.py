from __future__ import annotations

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional

from sparsecc.codegen.importers.base import conv_output_shape

small = st.integers(1, 4)


@given(
    image=st.tuples(st.integers(1, 12), st.integers(1, 12)), kernel=st.tuples(small, small), stride=st.tuples(small, small), data=st.data()
)
def test_conv_output_shape(image: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], data: st.DataObject) -> None:
    dilation = data.draw(st.tuples(small, small))
    top, left, bottom, right = padding = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
    assume(all(size + a + b > d * (k - 1) for size, a, b, d, k in zip(image, (top, left), (bottom, right), dilation, kernel, strict=True)))
    x = functional.pad(torch.zeros(2, 1, *image), (left, right, top, bottom))
    oracle = functional.conv2d(x, torch.zeros(3, 1, *kernel), stride=stride, dilation=dilation)
    attributes = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    assert conv_output_shape([2, 1, *image], 3, attributes) == list(oracle.shape)
