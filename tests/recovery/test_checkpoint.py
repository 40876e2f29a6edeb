"""Files from which a call goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparsecc.errors import UserError
from sparsecc.recovery import checkpoint


def test_what_was_saved_is_there_for_the_same_call_alone(tmp_path: Path) -> None:
    path, tensors = str(tmp_path / "state"), {"a": torch.arange(6.0).reshape(2, 3).T}
    key = checkpoint.key(("steps", 3), [tensors["a"]])
    assert checkpoint.load(path, key) is None
    checkpoint.save(path, key, tensors, {"step": 2.0})
    loaded = checkpoint.load(path, key)
    assert loaded is not None
    assert torch.equal(loaded[0]["a"], tensors["a"])
    assert loaded[1] == {"step": 2.0}
    with pytest.raises(UserError, match="is of another model, recipe or calibration"):
        checkpoint.load(path, checkpoint.key(("steps", 4), [tensors["a"]]))
    with pytest.raises(UserError, match="is of another model, recipe or calibration"):
        checkpoint.load(path, checkpoint.key(("steps", 3), [tensors["a"] + 1]))


def test_what_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(str(tmp_path / "state"), "key")
