from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import external_data_helper

from sparsecc.errors import UserError
from sparsecc.graph.onnx import write
from sparsecc.graph.onnx.graph import OnnxGraph
from tests import ROOT
from tests.graph import onnx_models as models
from tests.graph.onnx.test_io import external as external  # a fixture
from tests.graph.onnx.test_io import random


def files(folder: Path) -> list[str]:
    """Their names, data's digests left out."""
    names = (file.name.split(".") for file in folder.iterdir())
    return sorted(".".join(part for part in name if len(part) != 16) for name in names)


def same(path: Path, proto: onnx.ModelProto) -> bool:
    x = random(2, 32)
    return np.allclose(OnnxGraph.from_file(path).run([x]).outputs[0], models.run(proto, x=x)[0], atol=1e-5)


@pytest.mark.parametrize("to_external", [False, True])
def test_written_models_read_back_the_same(to_external: bool, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    OnnxGraph.from_proto(models.mlp()).save(path, external=to_external)
    assert files(tmp_path) == ["out.onnx", "out.onnx.data"][: 1 + to_external]
    assert (path.stat().st_size < 4000) == to_external
    onnx.checker.check_model(path)
    x = random(2, 32)
    assert np.allclose(OnnxGraph.from_file(path).run([x]).outputs[0], models.run(models.mlp(), x=x)[0], atol=1e-5)


def test_saving_over_the_file_that_is_mapped(external: Path) -> None:
    graph = OnnxGraph.from_file(external)
    for _ in range(3):
        graph.save(external, external=True)
    x = random(2, 32)
    assert np.allclose(OnnxGraph.from_file(external).run([x]).outputs[0], graph.run([x]).outputs[0])
    assert files(external.parent) == ["model.onnx", "model.onnx.data", "model.onnx.data"]  # theirs, and ours
    assert external.with_name("model.onnx.data").exists()
    graph.save(external)
    assert [file.name for file in sorted(external.parent.iterdir())] == ["model.onnx", "model.onnx.data"]


def other() -> onnx.ModelProto:
    """A model of other weights."""
    proto = models.mlp()
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(tensor), tensor.name))
    return proto


@pytest.mark.parametrize("location", ["elsewhere", "m.onnx.data", "data/m.onnx.data"])
def test_what_others_made_stays_whatever_the_old_model_says(location: str, tmp_path: Path) -> None:
    (tmp_path / "work" / "data").mkdir(parents=True)
    theirs = tmp_path / "m.onnx.data.important" if location == "elsewhere" else tmp_path / "work" / location
    theirs.write_bytes(bytes(1 << 16))
    proto = models.mlp()
    external_data_helper.set_external_data(proto.graph.initializer[0], str(theirs) if location == "elsewhere" else location)
    proto.graph.initializer[0].ClearField("raw_data")
    (tmp_path / "work" / "m.onnx").write_bytes(proto.SerializeToString())
    for to_external in (True, False):
        OnnxGraph.from_proto(models.mlp()).save(tmp_path / "work" / "m.onnx", to_external)
        assert theirs.exists()
    assert files(tmp_path / "work") == sorted(["data", "m.onnx", *(["m.onnx.data"] if location == "m.onnx.data" else [])])


@pytest.mark.parametrize("copy", ["work/other.onnx", "work/m.onnx.bak", "above.onnx"])
def test_our_data_stays_as_long_as_anybody_names_it(copy: str, tmp_path: Path) -> None:
    model = tmp_path / "work" / "m.onnx"
    model.parent.mkdir()
    OnnxGraph.from_proto(models.mlp()).save(model, external=True)
    if copy == "above.onnx":
        proto = onnx.load(model, load_external_data=False)
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                entry.value = f"work/{entry.value}" if entry.key == "location" else entry.value
        (tmp_path / copy).write_bytes(proto.SerializeToString())
    else:
        shutil.copy(model, tmp_path / copy)
    OnnxGraph.from_proto(other()).save(model, external=True)
    OnnxGraph.from_proto(other()).save(model)
    assert same(model, other()) and same(tmp_path / copy, models.mlp())
    (tmp_path / copy).unlink()
    OnnxGraph.from_proto(other()).save(model)
    assert files(model.parent) == ["m.onnx"]


def test_equal_models_make_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        OnnxGraph.from_proto(models.mlp()).save(tmp_path / name / "m.onnx", external=True)
    assert [[file.read_bytes() for file in sorted((tmp_path / name).iterdir())] for name in "ab"] == [
        [file.read_bytes() for file in sorted((tmp_path / "a").iterdir())]
    ] * 2


WRITER = """
import os, signal, sys
from sparsecc import files
from sparsecc.graph.onnx import write
from sparsecc.graph.onnx.graph import OnnxGraph
from tests.graph.onnx import test_write as tests
from tests.graph import onnx_models as models

graphs = [OnnxGraph.from_proto(proto) for proto in (models.mlp(), tests.other())]
def killed_in(function, path, call):
    pid = os.fork()
    if pid == 0:
        calls = []
        def kill(*arguments, **options):
            calls.append(function(*arguments, **options))
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
        setattr(write if function is write.take_place else write.ir, function.__name__, kill)
        graphs[1].save(path, external=True)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
for function, call, path in zip(*[iter(sys.argv[1:])] * 3):
    graphs[0].save(path, external=True)
    assert killed_in({"save": write.ir.save, "take_place": write.take_place}[function], path, int(call)) == -signal.SIGKILL
"""


def test_kills_leave_a_whole_model_and_nothing_that_the_next_write_does_not_clean_up(tmp_path: Path) -> None:
    kills = {("save", 1): models.mlp(), ("take_place", 1): models.mlp(), ("take_place", 2): other()}  # which model is left
    paths = {kill: tmp_path / f"{kill[0]} {kill[1]}" / "m.onnx" for kill in kills}
    for path in paths.values():
        path.parent.mkdir()
    words = [word for (function, call), path in paths.items() for word in (function, str(call), str(path))]
    subprocess.run([sys.executable, "-c", WRITER, *words], check=True, cwd=ROOT)
    for kill, path in paths.items():
        assert same(path, kills[kill]), kill
        OnnxGraph.from_proto(other()).save(path, external=True)
        assert same(path, other()), kill
        assert files(path.parent) == ["m.onnx", "m.onnx.data"], kill


def test_two_who_write_at_once_do_not_mix_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one writes, from beginning to end, between the first one's steps."""
    path, protos = tmp_path / "m.onnx", (models.mlp(), other())
    for step in ("save", "only_one"):
        home = write.ir if step == "save" else write
        original = getattr(home, step)

        def between(*arguments: object, **options: object):
            monkeypatch.setattr(home, step, original)  # noqa: B023
            OnnxGraph.from_proto(protos[1]).save(path, external=True)
            return original(*arguments, **options)  # noqa: B023

        monkeypatch.setattr(home, step, between)
        OnnxGraph.from_proto(protos[0]).save(path, external=True)
        assert same(path, protos[0])  # which ended last
        assert files(tmp_path) == ["m.onnx", "m.onnx.data"]


@pytest.mark.parametrize("to_external", [False, True])
def test_modes_stay(to_external: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"")
    path.chmod(0o640)
    OnnxGraph.from_proto(models.mlp()).save(path, to_external)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o640}


def test_data_that_another_model_uses_stays(external: Path) -> None:
    copy = external.with_name("copy.onnx")
    copy.write_bytes(external.read_bytes())
    graph = OnnxGraph.from_file(copy)
    graph.save(external, external=True)
    external.unlink()
    graph.save(external, external=True)  # beside copy.onnx, which still reads model.onnx.data
    x = random(2, 32)
    want = models.run(models.mlp(), x=x)[0]
    for path in (copy, external):
        assert np.allclose(OnnxGraph.from_file(path).run([x]).outputs[0], want, atol=1e-5)


def test_data_lies_beside_the_file_and_not_beside_a_link_to_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.onnx").symlink_to("folder/real.onnx")
    OnnxGraph.from_proto(models.mlp()).save(tmp_path / "link.onnx", external=True)
    assert files(tmp_path / "folder") == ["real.onnx", "real.onnx.data"]
    assert (tmp_path / "link.onnx").is_symlink()


def test_large_models_go_to_external_data_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "EMBED_LIMIT", 10_000)
    OnnxGraph.from_proto(models.mlp()).save(tmp_path / "big.onnx")
    [data] = tmp_path.glob("big.onnx.*.data")
    assert data.stat().st_size > 10_000


@pytest.mark.parametrize("to_external", [False, True])
def test_a_save_that_fails_leaves_the_old_files_whole(to_external: bool, external: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in external.parent.iterdir()}
    graph = OnnxGraph.from_file(external)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace" if to_external else "fsync", full)
    with pytest.raises(UserError, match=r"model.onnx: cannot be written: No space left on device"):
        graph.save(external, external=to_external)
    assert {file.name: file.read_bytes() for file in external.parent.iterdir()} == before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written: No such file"):
        OnnxGraph.from_proto(models.mlp()).save(tmp_path / "none" / "m.onnx")
