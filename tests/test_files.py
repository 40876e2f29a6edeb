from __future__ import annotations

import json
import math
import os
import signal
import stat
import subprocess
import sys

import pytest

from sparsecc.errors import InputError, UserError
from sparsecc.files import json_text, replacing, require_regular, temporary_folder, write_text


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "f"
    write_text(path, "old")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(failure), replacing(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(UserError, match="f: cannot be written: No space left"), replacing(tmp_path / "f"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_text(tmp_path / "no" / "f", "")


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: is no regular file"):
        write_text(tmp_path / "pipe", "")
    assert (tmp_path / "pipe").is_fifo()


def test_two_writers_of_one_file(tmp_path):
    path = tmp_path / "f"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # which ended last
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_writers_left_goes_with_the_next(tmp_path):
    path = tmp_path / "f"
    script = (
        "import os, signal\n"
        "from sparsecc.files import replacing\n"
        f"with replacing({str(path)!r}) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 1
    write_text(path, "whole")
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_what_the_standard_says():
    assert json.loads(json_text({"a": (1.5, math.nan), "b": {"c": [math.inf, True, None]}})) == {
        "a": [1.5, None],
        "b": {"c": [None, True, None]},
    }


def test_the_mode_stays_and_what_is_private_is_so_while_it_is_written(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    path.chmod(0o600)
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o444)
    write_text(path, "newer")
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    write_text(tmp_path / "g", "")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "g").stat().st_mode) == 0o666 & ~umask


def test_folders_that_killed_writers_left_go_with_the_next(tmp_path):
    path = tmp_path / "f"
    script = (
        "import os, pathlib, signal\n"
        "from sparsecc.files import temporary_folder\n"
        f"with temporary_folder(pathlib.Path({str(path)!r})) as folder:\n"
        "    (folder / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    with temporary_folder(path) as first, temporary_folder(path) as second:
        assert sorted(tmp_path.iterdir()) == sorted([first, second])  # the killed one's is gone, and those in use stay
    write_text(path, "whole")
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_regular_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(InputError, match=f"{path}: is no regular file, so that it is not read"):
            require_regular(path, InputError)
    for path in (tmp_path, tmp_path / "missing", "a\0b"):
        require_regular(path)  # which are somebody else's to refuse


def test_a_folder_that_is_taken_for_abandoned_before_it_is_locked(tmp_path, monkeypatch):
    """Another process deletes what killed ones left, just between the making of a folder and its opening."""
    opened, real = [], os.open

    def open_after_another(path, *arguments, **options):
        if not opened:
            path.rmdir()
        opened.append(path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", open_after_another)
    with temporary_folder(tmp_path / "f") as folder:
        assert folder.is_dir() and opened[0] != folder
    assert not list(tmp_path.iterdir())
