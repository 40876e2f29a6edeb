"""Fourier transforms against torch's."""

from __future__ import annotations

import pytest
import torch

from sparsecc.errors import ModelError
from sparsecc.graph.fx import fourier
from tests.tolerance import assert_close

X = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
NORMS = ("backward", "ortho", "forward")  # by none, by the root, by the number of points when it goes forward


@pytest.mark.parametrize("normalization", range(3))
def test_of_complex_numbers_both_ways(normalization: int) -> None:
    x = torch.complex(X, X.flip(1))
    for forward, transform in ((True, torch.fft.fftn), (False, torch.fft.ifftn)):
        norm = NORMS[normalization if forward else 2 - normalization]
        found = fourier.of_complex((x.real, x.imag), (1, 2), normalization, forward)
        assert_close(torch.stack(found, -1), torch.view_as_real(transform(x, dim=(1, 2), norm=norm)))


def test_of_real_numbers() -> None:
    for onesided, transform in ((True, torch.fft.rfftn), (False, torch.fft.fftn)):
        found = fourier.of_real(X, (2, 1), 1, onesided)
        assert_close(torch.stack(found, -1), torch.view_as_real(transform(X, dim=(2, 1), norm="ortho")))


@pytest.mark.parametrize("size", [8, 9])
def test_back_to_an_even_and_an_odd_number_of_points(size: int) -> None:
    x = torch.complex(X, X.flip(1))  # whose imaginary parts at frequency 0 and at the highest one do not count
    assert_close(fourier.back_to_real((x.real, x.imag), (1, 2), 2, size), torch.fft.irfftn(x, s=(6, size), dim=(1, 2)))


def test_a_matrix_that_would_be_too_large_is_refused() -> None:
    with pytest.raises(ModelError, match="a Fourier transform of 5000 points takes a matrix of more than 16 million numbers"):
        fourier.of_real(torch.zeros(5000), (0,), 0, onesided=False)
