from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from sparsecc.codegen.importers.onnx.fourier import _matrix
from sparsecc.codegen.importers.onnx.importer import import_onnx
from sparsecc.errors import ModelError
from tests.codegen.importers.onnx.test_operators import build
from tests.codegen.whole import check_onnx
from tests.graph.onnx_models import random


def test_transforms_against_onnxruntime() -> None:
    node = helper.make_node
    feeds = {"real": random(2, 16, 1), "complex": random(2, 16, 3, 2), "signal": random(2, 64, 1)}
    weights = {"axis": np.array(1), "short": np.array(12), "long": np.array(20), "step": np.array(8), "frame": np.array(16)}
    nodes = [
        node("DFT", ["real", "", "axis"], ["one_side"], onesided=1),
        node("DFT", ["complex", "short", "axis"], ["cut"]),
        node("DFT", ["real", "long", "axis"], ["padded"]),
        node("DFT", ["complex", "", "axis"], ["back"], inverse=1),
        node("STFT", ["signal", "step", "window", "frame"], ["windows"]),
        node("STFT", ["signal", "step", "", "frame"], ["both_sides"], onesided=0),
    ]
    check_onnx(build(nodes, feeds, weights | {"window": np.hanning(16).astype(np.float32)}), *feeds.values())


def test_the_matrix_against_numpy() -> None:
    x = random(3, 10)
    y = (x @ _matrix(10, 10, 1, inverse=False, onesided=True)).reshape(3, 6, 2)
    assert np.allclose(y[..., 0] + 1j * y[..., 1], np.fft.rfft(x), atol=1e-5)


def test_what_is_refused() -> None:
    with pytest.raises(ModelError, match="a transform of 9000 points takes a matrix of more than 16 million numbers"):
        _matrix(9000, 9000, 1, inverse=False, onesided=False)
    feeds, weights = {"signal": random(1, 8, 1)}, {"step": np.array(4), "frame": np.array(16)}
    proto = build([helper.make_node("STFT", ["signal", "step", "", "frame"], ["y"], name="spectrum")], feeds, weights)
    with pytest.raises(ModelError, match=r"STFT \(at 'spectrum'\): its 8 samples are fewer than a frame of 16$"):
        import_onnx(proto)
