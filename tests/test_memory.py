from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsecc import memory

MACHINE = "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 8000 kB\n"


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes files of a system by their paths, and says what is left."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "fs")

    def available(files: dict[str, str]) -> int:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return memory.available()

    return available


def test_without_groups_it_is_what_the_machine_has(system) -> None:
    assert system({}) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert system({"meminfo": MACHINE}) == 8_192_000
    assert system({"cgroup": "3:cpuset:/\n0::/a\n"}) == 8_192_000


def test_the_strictest_group_counts(system) -> None:
    """Each of version 2 that the process is in, whose cache of files can be given back."""
    used = {"fs/a/memory.current": "500000", "fs/a/memory.stat": "anon 7\ninactive_file 1000\n"}
    inner = {"fs/a/b/memory.max": "max\n", "fs/a/b/memory.current": "4", "fs/a/b/memory.stat": "inactive_file 0"}
    files = {"meminfo": MACHINE, "cgroup": "0::/a/b\n", "fs/a/memory.max": "600000\n", **used, **inner}
    assert system(files) == 101_000
    assert system({"fs/a/b/memory.max": "50\n"}) == 46
    assert system({"fs/a/b/memory.max": "1\n"}) == 0


def test_groups_of_the_first_version(system) -> None:
    """In a container that sees its own group as the outermost one."""
    files = {"limit_in_bytes": "70000\n", "usage_in_bytes": "60000\n", "stat": "total_inactive_file 5\n"}
    groups = {f"fs/memory/memory.{name}": text for name, text in files.items()}
    assert system({"meminfo": MACHINE, "cgroup": "4:cpu,memory:/docker/1\n1:cpu:/\n", **groups}) == 10_005
