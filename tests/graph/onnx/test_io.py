"""Files that are wrong in every way, external data, and what a crash in the middle of a save leaves."""

from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from sparsecc.errors import ModelError
from sparsecc.graph.onnx import io as onnx_io
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import WeightSite
from tests.graph import onnx_models as models
from tests.graph.onnx.test_sparse import packed_mlp
from tests.graph.onnx_models import node, random


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose weights are in model.onnx.data."""
    path = tmp_path / "model.onnx"
    onnx.save(models.mlp(), path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    return path


def first_weight(path: Path) -> np.ndarray:
    value = onnx_io.read(path).graph.initializers["fc1.weight"].const_value
    assert value is not None
    return value.numpy()


def relocate(path: Path, **entries: str) -> None:
    """Point the first weight's external data elsewhere."""
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    kept = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in kept.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())


def damaged(kind: str, whole: bytes) -> bytes:
    noise = np.random.default_rng(0).bytes(4000)
    return {"empty": b"", "text": b"this is no model\n" * 50, "noise": noise, "cut off": whole[: len(whole) // 2]}[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "noise", "cut off"])
def test_files_that_are_no_models(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(damaged(kind, models.mlp().SerializeToString()))
    with pytest.raises(ModelError, match=r"broken.onnx: (the file is empty|not an ONNX model)") as caught:
        onnx_io.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_any_damaged_byte_is_survived_or_said(packed: bool, tmp_path: Path) -> None:
    """Weights are most of the bytes, so half of the damage is aimed at the structure around them."""
    whole = (packed_mlp() if packed else models.mlp()).SerializeToString()
    damage, path = np.random.default_rng(0), tmp_path / "m.onnx"
    for attempt in range(40):
        broken = bytearray(whole)
        at = damage.integers(300) if attempt % 2 else -1 - damage.integers(len(whole) if not packed else 3000)
        broken[at] = damage.integers(256)
        path.write_bytes(broken)
        try:
            graph = OnnxGraph.from_file(path)
            graph.sites()
            graph.proto()
        except ModelError as error:
            assert "\n" not in str(error)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.onnx: cannot be read: No such file"):
        onnx_io.read(tmp_path / "none.onnx")


def test_a_newer_opset() -> None:
    proto = models.mlp()
    proto.opset_import[0].version = 99
    with pytest.raises(ModelError, match="opset 99 is newer than"):
        onnx_io.from_proto(proto, "m")


def test_a_model_without_operators() -> None:
    with pytest.raises(ModelError, match="m: the model has no operators"):
        onnx_io.from_proto(models.model([], {"x": [1]}, {"x": [1]}), "m")


def test_a_model_without_outputs() -> None:
    with pytest.raises(ModelError, match="m: the model has no outputs"):
        onnx_io.from_proto(models.model([node("Relu", "x", "y")], {"x": [1]}, {}), "m")


def test_unknown_operators_are_all_named_with_where_they_are() -> None:
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["h"], name="here"),
        helper.make_node("Relu", ["h"], ["i"], domain="acme.ops"),
        node("Relu", "i", "y"),
    ]
    with pytest.raises(ModelError, match=r"m: operators that opset 18 does not have: Frobnicate \(at 'here'\), acme.ops::Relu \(at 'i'\)"):
        onnx_io.from_proto(models.model(nodes, {"x": [1]}, {"y": [1]}), "m")


def test_an_unknown_operator_inside_a_branch() -> None:
    result = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])
    inner = helper.make_graph([helper.make_node("Frobnicate", ["x"], ["z"], name="deep")], "branch", [], [result])
    nodes = [node("Cast", "x", "c", to=9), helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)]
    with pytest.raises(ModelError, match=r"Frobnicate \(at 'deep'\)"):
        onnx_io.from_proto(models.model(nodes, {"x": [1]}, {"y": [1]}), "m")


def test_external_data_is_mapped_and_read(external: Path) -> None:
    mapped = first_weight(external)
    assert not mapped.flags.owndata
    assert np.array_equal(mapped, random(32, 64))
    x = random(3, 32)
    assert np.allclose(OnnxGraph.from_file(external).run([x]).outputs[0], models.run(models.mlp(), x=x)[0], atol=1e-5)


def test_external_data_that_is_missing(external: Path) -> None:
    (external.parent / "model.onnx.data").unlink()
    with pytest.raises(ModelError, match=r"model.onnx: external data of tensor 'fc1.weight' is missing: there is no file"):
        onnx_io.read(external)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret", "..\\secret", "C:\\secret", "link", "folder/secret"])
def test_external_data_outside_the_folder_is_refused_unread(location: str, external: Path) -> None:
    secret = external.parent.parent / "secret"
    secret.write_bytes(bytes(1 << 16))
    (external.parent / "link").symlink_to(secret)
    (external.parent / "folder").symlink_to(external.parent.parent)
    relocate(external, location=location)
    with pytest.raises(ModelError, match="points outside the model's folder"):
        onnx_io.read(external)
    secret.unlink()


def test_external_data_through_a_link_inside_the_folder(external: Path) -> None:
    (external.parent / "link").symlink_to("model.onnx.data")
    relocate(external, location="link")
    assert np.array_equal(first_weight(external), random(32, 64))


def test_a_cache_of_links_to_the_model_and_its_data(external: Path, tmp_path: Path) -> None:
    """As huggingface_hub lays files out: what a revision holds is linked from where all contents lie, under other names."""
    contents, revision = tmp_path / "blobs", tmp_path / "snapshots"
    contents.mkdir()
    revision.mkdir()
    for number, file in enumerate((external, external.parent / "model.onnx.data")):
        file.rename(contents / f"{number}")
        (revision / file.name).symlink_to(f"../blobs/{number}")
    assert np.array_equal(first_weight(revision / "model.onnx"), random(32, 64))


def test_links_of_which_one_leads_elsewhere(external: Path, tmp_path: Path) -> None:
    """A model that is no link with data that is one; and a link to a model without one to its data. The refusals say what to do."""
    real, here, data = tmp_path / "real", tmp_path / "here", external.with_name("model.onnx.data")
    real.mkdir()
    here.mkdir()
    data.rename(real / data.name)
    external.rename(here / "model.onnx")
    (here / data.name).symlink_to(real / data.name)
    with pytest.raises(ModelError, match=rf"points outside .*: '{data.name}' is a link to {real / data.name}; put a copy"):
        onnx_io.read(here / "model.onnx")
    (here / data.name).unlink()
    (here / "model.onnx").rename(real / "model.onnx")
    (here / "model.onnx").symlink_to(real / "model.onnx")
    with pytest.raises(ModelError, match=rf"no file 'model.onnx.data' beside .*; the model's name is a link to {real}, where it is: give"):
        onnx_io.read(here / "model.onnx")
    (real / "below").mkdir()
    (real / data.name).rename(real / "below" / data.name)
    (here / data.name).symlink_to(real / "below" / data.name)
    with pytest.raises(ModelError, match="points outside"):
        onnx_io.read(here / "model.onnx")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": str(1 << 30)}, "was cut off"),
        ({"offset": "-8"}, "8192 bytes at -8"),
        ({"length": "12"}, r"12 bytes at 0, but the shape \[32, 64\] needs 8192"),
        ({"offset": "many"}, "offset or length is no number"),
        ({"location": ""}, "names no file"),
        ({"location": "a\0b"}, r"names no file: 'a.x00b'"),
    ],
)
def test_external_data_that_cannot_be(entries: dict[str, str], message: str, external: Path) -> None:
    relocate(external, **entries)
    with pytest.raises(ModelError, match=message):
        onnx_io.read(external)


def test_a_data_file_that_was_cut_off(external: Path) -> None:
    os.truncate(external.parent / "model.onnx.data", 100)
    with pytest.raises(ModelError, match="the file was cut off: it has 100 bytes"):
        onnx_io.read(external)


def test_a_proto_with_data_elsewhere_asks_for_the_path(external: Path) -> None:
    with pytest.raises(ModelError, match=r"give the path of the \.onnx file instead"):
        OnnxGraph.from_proto(onnx.load(external, load_external_data=False))


def test_external_data_of_a_constant_is_read_too(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(random(32, 32), "w"))
    proto = models.model([constant, node("MatMul", "x w", "y")], {"x": ["n", 32]}, {"y": ["n", 32]})
    tensor = proto.graph.node[0].attribute[0].t
    (tmp_path / "w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    (site,) = OnnxGraph.from_file(tmp_path / "m.onnx").sites()
    assert isinstance(site, WeightSite)
    assert np.array_equal(site.weight.numpy().T, random(32, 32))


def test_bfloat16_and_unaligned_external_data(tmp_path: Path) -> None:
    weight = random(4, 6).astype(ml_dtypes.bfloat16)
    proto = models.model([node("Cast", "w", "c", to=1), node("MatMul", "x c", "y")], {"x": ["n", 4]}, {"y": ["n", 6]})
    tensor = proto.graph.initializer.add(name="w", dims=[4, 6], data_type=TensorProto.BFLOAT16, data_location=TensorProto.EXTERNAL)
    (tmp_path / "w.bin").write_bytes(b"-" + weight.tobytes())
    for key, value in (("location", "w.bin"), ("offset", "1"), ("length", "48")):
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    value = onnx_io.read(tmp_path / "m.onnx").graph.initializers["w"].const_value
    assert value is not None and value.dtype == ir.DataType.BFLOAT16
    assert np.array_equal(value.numpy(), weight)


def test_sizes_that_no_one_knows_stay_unknown() -> None:
    proto = models.model([node("Relu", "x", "y")], {"x": ["?", "?"]}, {"y": ["?", "?"]})
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert OnnxGraph.from_proto(proto).inputs[0].shape == ("x_d0", "x_d1")
