from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from benchmarks import export


def test_exported_once_then_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "CACHE", tmp_path)
    module, x = torch.nn.Linear(3, 2).eval(), torch.ones(1, 3)
    path = export.exported("linear", module, (x,), ("x",))
    (y,) = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})
    assert isinstance(y, np.ndarray)
    np.testing.assert_allclose(y, module(x).detach().numpy(), rtol=1e-5)
    written = path.stat().st_mtime_ns
    assert export.exported("linear", module, (x,), ("x",)) == path and path.stat().st_mtime_ns == written
    assert list(tmp_path.iterdir()) == [path]  # nothing partial is left
    assert "torchvision" not in capfd.readouterr().err
