from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from sparsecc.errors import ArtifactError, UserError
from sparsecc.runtime import code
from sparsecc.runtime.code import Program
from tests.runtime import tiny


def test_each_thread_has_its_own_machine():
    program = Program(tiny.executable(3, (0, 1)))
    machines = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: machines.append(program.main()))
        thread.start()
        thread.join()
    assert program.main() is program.main()
    assert machines[0] is not machines[1]


def test_what_is_no_shared_object():
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        Program.from_bytes(b"\x7fELF nothing more")


def test_linking_happens_once():
    program = Program(tiny.executable(3, (0, 1)))
    assert program.to_bytes() is program.to_bytes()


def test_linking_asks_for_room_first(monkeypatch):
    monkeypatch.setattr(code.shutil, "disk_usage", lambda folder: SimpleNamespace(free=3 << 20))
    with pytest.raises(UserError, match=r"has 3 MB free, linking needs 64; make room, or .* TMPDIR"):
        Program(tiny.executable(3, (0, 1))).to_bytes()


def test_a_limit_on_file_sizes_is_named(monkeypatch):
    monkeypatch.setattr(code.resource, "getrlimit", lambda kind: (5 << 20, code.resource.RLIM_INFINITY))
    with pytest.raises(UserError, match=r"files may have 5 MB here \(ulimit -f\), linking needs 64"):
        Program(tiny.executable(3, (0, 1))).to_bytes()
