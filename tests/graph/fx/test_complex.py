"""Complex numbers as pairs of real ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsecc.errors import ModelError
from sparsecc.graph.fx.graph import FxGraph
from tests.tolerance import assert_close


class Rotary(nn.Module):
    """Rotations as Llama's own code has them, with angles that are stored and angles that are computed."""

    turns: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turns", torch.polar(torch.ones(6, 4), torch.outer(torch.arange(6.0), torch.rand(4))))

    def forward(self, x: Tensor, angle: Tensor) -> tuple[Tensor, ...]:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        by_stored = pairs * self.turns[: x.shape[1]].unsqueeze(1)
        by_angle = pairs.transpose(1, 2) * torch.polar(torch.ones_like(angle), angle).conj()
        both = torch.cat([by_stored, by_angle.transpose(1, 2) * 2 - by_stored], -1)
        return torch.view_as_real(both).flatten(3), both.abs(), (both / (1 + by_stored.repeat(1, 1, 1, 2))).real


def _operators(graph: FxGraph, inputs: tuple[Tensor, ...]) -> tuple[list[Tensor], list[torch.dtype]]:
    program = graph.specialize(inputs)
    dtypes = [node.meta["val"].dtype for node in program.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    return list(program.module()(*inputs)), dtypes


def test_the_same_by_real_numbers() -> None:
    module, inputs = Rotary(), (torch.randn(2, 6, 3, 8), torch.randn(6, 4))
    outputs, dtypes = _operators(FxGraph.from_module(module, inputs), inputs)
    assert not any(dtype.is_complex for dtype in dtypes)
    for found, expected in zip(outputs, module(*inputs), strict=True):
        assert_close(found, expected)


def test_a_spectrum_is_two_matrix_products() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            short = torch.stft(x, 16, 8, window=torch.hann_window(16), return_complex=True).abs()
            return short, torch.view_as_real(torch.fft.rfft(x, norm="ortho"))

    x = torch.randn(2, 64)
    outputs, dtypes = _operators(FxGraph.from_exported(torch.export.export(Spectrum(), (x,))), (x,))
    assert not any(dtype.is_complex for dtype in dtypes)
    for found, expected in zip(outputs, Spectrum()(x), strict=True):
        assert_close(found, expected)


class Filter(nn.Module):
    """A layer of a Fourier neural operator: low frequencies of an image are mixed by complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 4, 3, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        low = torch.fft.rfft2(x)[:, :, :4, :3]
        mixed = torch.zeros(x.shape[0], 4, x.shape[2], x.shape[3] // 2 + 1, dtype=torch.cfloat)
        mixed[:, :, :4, :3] = torch.einsum("bixy,ioxy->boxy", low, self.weight)
        return torch.fft.irfft2(mixed, s=x.shape[2:]), torch.fft.fftn(x, dim=(1, 2)).real, torch.fft.fftshift(torch.fft.fft(x + 1j)).imag


def test_transforms_of_several_axes_and_back() -> None:
    module, x = Filter(), torch.randn(2, 3, 8, 6)
    outputs, dtypes = _operators(FxGraph.from_exported(torch.export.export(module, (x,))), (x,))
    assert not any(dtype.is_complex for dtype in dtypes)
    for found, expected in zip(outputs, module(x), strict=True):
        assert_close(found, expected.detach())


def test_what_has_no_real_form_is_refused() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_complex(x).sqrt().real

    class Out(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_complex(x)

    x = torch.randn(3, 2)
    for module, said in (
        (Root(), r"^the compiler has no operator for: sqrt.default of complex numbers \(at sqrt\)$"),
        (Out(), "is complex; take and return"),
    ):
        with pytest.raises(ModelError, match=said):
            FxGraph.from_exported(torch.export.export(module, (x,))).specialize((x,))
