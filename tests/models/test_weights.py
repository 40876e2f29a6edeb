from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from models import _weights
from sparsecc.errors import ModelError


def test_weights_come_back_in_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_weights, "FOLDER", tmp_path / "weights")
    module = nn.Linear(8, 2)
    assert _weights.keep(module, "layer") == tmp_path / "weights" / "layer.safetensors"
    back = _weights.trained(nn.Linear(8, 2), "layer")
    torch.testing.assert_close(back.weight, module.weight.detach().half().float(), rtol=0, atol=0)
    assert not back.training and not back.weight.requires_grad
    with pytest.raises(ModelError, match=r"another architecture .*python -m models\.train\.layer"):
        _weights.trained(nn.Linear(9, 2), "layer")
    with pytest.raises(ModelError, match=r"no weights; run: python -m models\.train\.none"):
        _weights.trained(nn.Linear(8, 2), "none")
