"""What needs no second process; `tests/ranks/test_job.py` has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsecc.cli.common import writable, write_json
from sparsecc.cli.ranks import SHARED, leads, shared
from sparsecc.errors import UserError


def job(patch: pytest.MonkeyPatch, rank: int, size: int = 2) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": str(rank), "WORLD_SIZE": str(size)}.items():
        patch.setenv(name, value)


def test_one_process_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert leads()
    monkeypatch.setenv("WORLD_SIZE", "2")  # of a job that is not torchrun's
    monkeypatch.setenv("RANK", "1")
    assert leads()
    job(monkeypatch, 0, size=1)
    assert leads()
    with shared(["tune"], ["tune"]):
        pass


def test_rank_0_leads_in_a_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job(monkeypatch, 0)
    assert leads()
    job(monkeypatch, 1)
    assert not leads()
    writable(tmp_path / "none" / "x.onnx")  # a folder that only the machine of rank 0 has
    write_json(tmp_path / "x.json", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["tune", "run", "bench"])
def test_commands_with_nothing_to_divide_refuse(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    job(monkeypatch, 0)
    with pytest.raises(UserError, match=f"{command}: runs in one process, not under torchrun"), shared([command, "x"], [*SHARED, command]):
        pass


def test_help_and_typing_errors_need_no_other_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    job(monkeypatch, 0)
    for arguments in (["--help"], ["convrt", "x"]):
        with shared(arguments, SHARED):
            pass
