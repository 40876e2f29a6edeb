from __future__ import annotations

import dataclasses
import gc
import json
import mmap
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import sparsecc
from sparsecc.errors import ArtifactError, UserError
from sparsecc.runtime import artifact, weights
from sparsecc.runtime import compiled as compiled_module
from sparsecc.runtime.code import Program
from tests import ROOT
from tests.runtime import tiny


@pytest.fixture
def saved(tmp_path):
    compiled = tiny.compiled()
    compiled(tiny.example(7))
    compiled.save(tmp_path / "m.sparsecc")
    return tmp_path / "m.sparsecc"


def rewrite_manifest(path, **changes):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["manifest.json"] = json.dumps(json.loads(members["manifest.json"]) | changes).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_loaded_equals_saved(saved):
    loaded = sparsecc.load(saved)
    for tokens in (3, 7):
        for a, b in zip(loaded(tiny.example(tokens)), tiny.compiled()(tiny.example(tokens)), strict=True):
            assert np.array_equal(a, b)
    assert loaded.report == tiny.REPORT
    assert artifact.read_report(saved) == tiny.REPORT
    assert [entry.shapes[0][0] for entry in loaded.specializations] == [3, 7]


def test_the_same_model_makes_the_same_bytes(saved, tmp_path):
    again = tiny.compiled()
    again(tiny.example(7))
    again.save(tmp_path / "again.sparsecc")
    sparsecc.load(saved).save(tmp_path / "resaved.sparsecc")
    assert saved.read_bytes() == (tmp_path / "again.sparsecc").read_bytes() == (tmp_path / "resaved.sparsecc").read_bytes()


def test_weights_are_stored_once_aligned_and_readable_by_safetensors(saved):
    import safetensors.numpy

    with zipfile.ZipFile(saved) as archive:
        stored = safetensors.numpy.load(archive.read("weights.safetensors"))
    key = weights.content_key(tiny.WEIGHT)
    assert list(stored) == [key]
    assert np.array_equal(stored[key], tiny.WEIGHT)
    content = saved.read_bytes()
    assert content.index(f'{{"{key}"'.encode()) % 64 == 8  # after the header's length, which is 8 bytes


def test_the_threads_may_be_chosen_when_loading(saved):
    assert sparsecc.load(saved, threads=1).target.threads == 1
    assert sparsecc.load(saved).target.threads == tiny.TARGET.threads
    with pytest.raises(UserError, match="threads: 0 is no whole number from one"):
        sparsecc.load(saved, threads=0)


def test_saving_while_other_shapes_push_out_what_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled_module, "MAX_SPECIALIZATIONS", 1)
    compiled, link = tiny.compiled(), Program.to_bytes

    def push_out_and_link(program):
        other = tiny.library(7)
        other.weights["fc.weight"][:] = 1
        compiled.add_library(other)
        return link(program)

    monkeypatch.setattr(Program, "to_bytes", push_out_and_link)
    compiled.save(tmp_path / "m.sparsecc")
    for a, b in zip(sparsecc.load(tmp_path / "m.sparsecc")(tiny.example()), tiny.compiled()(tiny.example()), strict=True):
        assert np.array_equal(a, b)


def test_loading_imports_neither_torch_nor_onnx(saved):
    script = (
        "import sys, numpy as np, sparsecc\n"
        f"m = sparsecc.load({str(saved)!r})\n"
        f"m(np.zeros((3, {tiny.COLS}), np.float32))\n"
        "loaded = [name for name in ('torch', 'onnx', 'onnx_ir', 'onnxruntime') if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_every_changed_byte_is_noticed_or_harmless(saved):
    content = saved.read_bytes()
    want = [np.array(output) for output in sparsecc.load(saved)(tiny.example())]
    noticed = 0
    for position in np.random.default_rng(0).integers(0, len(content), 150):
        saved.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            outputs = sparsecc.load(saved)(tiny.example())
        except ArtifactError as error:
            noticed += 1
            assert str(saved) in str(error)
            continue
        assert all(np.array_equal(a, b) for a, b in zip(outputs, want, strict=True))
    assert noticed > 100


def test_a_changed_byte_of_any_member_is_noticed(saved):
    """Also of the manifest, which holds everything else's SHA-256, and where the report alone is read."""
    content = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, data in members.items():
        for position in (0, len(data) // 2, len(data) - 1):
            at = content.index(data) + position
            saved.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            for reading in (sparsecc.load, *([artifact.read_report] if name == "report.json" else [])):
                with pytest.raises(ArtifactError, match=f"{name} in it is damaged"):
                    reading(saved)


@pytest.mark.parametrize("size", [0, 10, 5000, -1, -30])
def test_a_truncated_file_is_refused(saved, size):
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(ArtifactError, match=r"m\.sparsecc: damaged"):
        sparsecc.load(saved)


def test_a_file_that_changes_under_a_loaded_model_changes_nothing(saved, tmp_path):
    """Overwritten as `cp` does it, then cut off, which ends a process that has mapped the file."""
    loaded, expected = sparsecc.load(saved), [np.array(output) for output in sparsecc.load(saved)(tiny.example())]
    with saved.open("r+b") as stream:
        stream.write(bytes(saved.stat().st_size))
    assert all(np.array_equal(a, b) for a, b in zip(loaded(tiny.example()), expected, strict=True))
    saved.write_bytes(b"")
    assert all(np.array_equal(a, b) for a, b in zip(loaded(tiny.example()), expected, strict=True))


def test_a_file_that_is_cut_off_while_it_is_read(saved, monkeypatch):
    read = artifact._check_cpu

    def cut(target):
        with saved.open("r+b") as stream:
            stream.truncate(3000)
        read(target)

    monkeypatch.setattr(artifact, "_check_cpu", cut)
    with pytest.raises(ArtifactError, match=r"m\.sparsecc: .* in it (is damaged|was cut off while it was read)"):
        sparsecc.load(saved)


def test_what_is_compressed_is_not_unpacked(saved):
    """As a manifest of 1 GB in a file of 1 MB."""
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    for reading in (sparsecc.load, artifact.read_report):
        with pytest.raises(ArtifactError, match=r"(manifest|report)\.json in it is damaged"):
            reading(saved)


@pytest.mark.parametrize("reading", [sparsecc.load, artifact.read_report])
def test_a_pipe_or_device_is_refused_at_once(tmp_path, reading):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UserError, match="is no regular file, so that it is not read"):
            reading(path)


def test_what_is_loaded_again_and_again_is_let_go(saved):
    """Neither code, nor memory, nor descriptors pile up in a server that follows a model's updates."""

    def load_some():
        for _ in range(50):
            sparsecc.load(saved)(tiny.example())
        gc.collect()
        maps = Path("/proc/self/maps").read_text()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
        return maps.count("/lib.so"), len(list(Path("/proc/self/fd").iterdir())), resident

    load_some()
    before, after = load_some(), [load_some() for _ in range(3)][-1]
    assert after[:2] == before[:2]
    assert after[2] < before[2] + (3 << 20)  # 150 loads later


def test_other_versions_are_refused(saved):
    rewrite_manifest(saved, format=99)
    with pytest.raises(ArtifactError, match="artifact format 99"):
        sparsecc.load(saved)
    rewrite_manifest(saved, format=artifact.FORMAT, tvm="0.1")
    with pytest.raises(ArtifactError, match=r"compiled with TVM 0\.1"):
        sparsecc.load(saved)


def test_another_cpu_is_refused(saved):
    wanted = dataclasses.asdict(tiny.TARGET)
    rewrite_manifest(saved, target=wanted | {"features": ["avx512imaginary"]})
    with pytest.raises(ArtifactError, match="this CPU lacks avx512imaginary"):
        sparsecc.load(saved)
    rewrite_manifest(saved, target=wanted | {"triple": "riscv64-unknown-linux-gnu"})
    with pytest.raises(ArtifactError, match="compiled for riscv64"):
        sparsecc.load(saved)


def test_what_is_no_artifact(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        sparsecc.load(tmp_path / "missing.sparsecc")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ArtifactError, match=r"other\.zip: damaged"):
        sparsecc.load(tmp_path / "other.zip")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(saved, monkeypatch, failure):
    old = saved.read_bytes()

    def fail(stream, arrays):
        stream.write(b"half")
        raise failure

    monkeypatch.setattr(weights, "write", fail)
    with pytest.raises(UserError if isinstance(failure, OSError) else KeyboardInterrupt):
        tiny.compiled().save(saved)
    assert saved.read_bytes() == old
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_kill_in_the_middle_of_a_save_leaves_the_old_file(saved):
    old = saved.read_bytes()
    script = (
        "import os, signal\n"
        "from sparsecc.runtime import artifact, weights\n"
        "from tests.runtime import tiny\n"
        "def die(stream, arrays):\n"
        "    stream.write(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "weights.write = die\n"
        f"tiny.compiled().save({str(saved)!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert saved.read_bytes() == old


def test_without_a_c_compiler_saving_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match="install gcc or clang"):
        tiny.compiled().save(tmp_path / "m.sparsecc")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        tiny.compiled().save(tmp_path / "no" / "m.sparsecc")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"specializations": []}, "holds no compiled code"),
        ({"inputs": 3}, "damaged"),
        ({"target": {}}, "damaged"),
        ({"structure": []}, "damaged"),
        ({"structure": {"a": None}}, "damaged: KeyError 'kind'"),
        ({"structure": {"kind": "leaf", "index": 2}}, "an output structure names output 2 of 2"),
        ({"structure": {"kind": "list", "items": [{"kind": "heap"}]}}, "no output structure of kind 'heap'"),
        ({"structure": {"kind": "namedtuple", "class": 3, "items": {}}}, "damaged"),
        ({"sha256": None}, "damaged"),
        ({"sha256": {"weights.safetensors": None}}, "weights.safetensors in it is damaged"),
        ({"structure": {"kind": "leaf"}, "outputs": [{}]}, "damaged"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(saved, changes, message):
    rewrite_manifest(saved, **changes)
    with pytest.raises(ArtifactError, match=f"m.sparsecc: .*{message}"):
        sparsecc.load(saved)
